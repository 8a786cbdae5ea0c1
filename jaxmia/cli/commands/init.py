"""The command that writes a configuration to start from."""

import math
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import tyro
import yaml

from jaxmia.cli.overrides import configure_content, refuse_overrides
from jaxmia.errors import InputError, printable
from jaxmia.files import write_text

if TYPE_CHECKING:
    from pydantic import BaseModel

_HEAD = """\
# Configuration of a jaxmia run: every field with its default. A field that you delete keeps its default.
#   jaxmia doctor --config {path}
#   jaxmia run --config {path} --out runs/own
# Set your files and their preprocessing here, or on the command line: --challenge.public pub.pt
"""


@dataclass
class Init:
    """Writes a configuration with every field explained, or copies one of jaxmia's own.

    Fields that are set on the command line are written with their value.

    Example: jaxmia init own.yaml --challenge.public pub.pt --challenge.private priv.pt --challenge.target model.pt
    """

    path: Annotated[Path, tyro.conf.Positional]
    """File to write; it must not exist yet."""
    template: str | None = None
    """Configuration to copy: quickstart, mini, tml26 (the course), or the cluster profiles slurm, tml-htcondor."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Writes the file."""
        from jaxmia.cli.display import output
        from jaxmia.config import template

        if self.path.exists() or self.path.is_symlink():
            raise InputError(f"{self.path}: already exists; name another file or remove it")
        if self.template is None:
            text = _HEAD.format(path=printable(shlex.quote(str(self.path)))) + commented(
                configure_content(_FILES, "init", overrides)
            )
        else:
            refuse_overrides(overrides)
            text = template(self.template).read_text(encoding="utf-8")
        write_text(self.path, text)
        output(f"{self.path}: written; edit it, then run: {_next_command(text, self.path)}")


def _next_command(text: str, path: Path) -> str:
    """The command that takes a file of this text: a configuration of a run, or the profile of a cluster."""
    if scheduler := yaml.safe_load(text).get("scheduler"):
        return f"jaxmia cluster {scheduler} --profile {path} --config FILE --out DIR --jobs N"
    return f"jaxmia run --config {path} --out DIR"


_FILES = {"challenge": {"public": "pub.pt", "private": "priv.pt", "target": "model.pt"}}


def commented(section: "BaseModel") -> str:
    """Formats every field of a configuration as YAML, each below its description."""
    return "\n".join(_lines(section, section.model_dump(mode="json"), "")) + "\n"


def _lines(section: "BaseModel", values: dict[str, Any], indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        if not indent:
            yield ""
        words = " ".join([*(field.description or "").split(), *_allowed(field.annotation)])
        yield from textwrap.wrap(words, 120, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        value = getattr(section, name)
        if hasattr(type(value), "model_fields"):
            yield f"{indent}{name}:"
            yield from _lines(value, values[name], indent + "  ")
        else:
            yield f"{indent}{name}: {_flow(values[name])}"


def _flow(value: Any) -> str:
    """Formats a value as one line of YAML."""
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=math.inf).strip()[1:-1]


def _allowed(annotation: Any) -> list[str]:
    """Line with the words that a field takes, if it takes a few."""
    words = _words(annotation)
    return [f"({', '.join(words)})"] if words else []


def _words(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    return [word for part in get_args(annotation) for word in _words(part)]
