"""The commands that documents show."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^( *)```[^\n`]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^(?: {8}|\t).*$", re.MULTILINE)
_ASSIGNED = re.compile(r"^[A-Z_]+=\S*$")


@dataclass(frozen=True)
class Command:
    """A line that a reader may copy.

    Attributes:
        document: File name.
        program: `jaxmia` or `make`.
        arguments: Without redirections and what follows a `|`.
    """

    document: str
    program: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {self.program} {shlex.join(self.arguments)}"


def commands_of(path: Path) -> list[Command]:
    """The commands in a document's blocks of code, in order."""
    text = path.read_text()
    blocks = [match[2] for match in _FENCE.finditer(text)]
    blocks += _INDENTED.findall(_FENCE.sub("", text))
    return [command for block in blocks for command in _commands(path.name, block)]


def _commands(document: str, block: str) -> Iterator[Command]:
    for line in block.replace("\\\n", " ").splitlines():
        if not re.search(r"\b(jaxmia|make)\b", line):
            continue
        words = [word for word in shlex.split(line, comments=True) if not _ASSIGNED.match(word)]
        if words and Path(words[0]).name in ("jaxmia", "make"):
            ends = [index for index, word in enumerate(words) if word in (">", "|", "&&")]
            yield Command(document, Path(words[0]).name, tuple(words[1 : min(ends, default=None)]))
