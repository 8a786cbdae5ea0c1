"""The command that looks at the machine."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from jaxmia.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from jaxmia.config import Config
    from jaxmia.machine.doctor import Finding


@dataclass
class Doctor:
    """Is this machine fit: versions, devices (is the GPU really used?), memory, the challenge's files.

    Exit status 1 if something keeps a run from working or from using the GPU.

    Example: jaxmia doctor --config own.yaml
    """

    config: Path | None = None
    """Configuration (YAML) whose files are to be looked at."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON instead of lines."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Looks."""
        # Looking must not take the memory of a GPU that is at work.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        from jaxmia.cli.display import output
        from jaxmia.cli.overrides import configure
        from jaxmia.machine.doctor import examine

        config = configure(self.config, overrides) if self.config or overrides else None
        findings = [*examine(), *(_files(config) if config else [])]
        if self.json:
            output(json.dumps({"findings": [finding.to_dict() for finding in findings]}, indent=2))
        else:
            output("\n".join(_line(finding) for finding in findings))
        bad = [finding.subject for finding in findings if finding.state == "bad"]
        if bad:
            raise InputError(f"doctor: not well: {', '.join(bad)}")


def _line(finding: "Finding") -> str:
    line = f"{finding.state:<4}  {finding.subject}: {finding.text}"
    return f"{line}\n      -> {finding.remedy}" if finding.remedy else line


def _files(config: "Config") -> list["Finding"]:
    from bridge.challenge import categories_of, load_split
    from bridge.open import open_target
    from jaxmia.data.kinds import kind_of
    from jaxmia.machine.doctor import check_file

    section = config.challenge
    seen: list[np.ndarray] = []

    def samples(path: Path, known: bool) -> str:
        files = [file for file in (section.public, section.private) if file]
        pool = load_split(
            path,
            known=known,
            classes=section.dataset_classes,
            max_bytes=section.max_bytes,
            categories=categories_of(files, section.one_hot, section.max_bytes),
        )
        images = pool.images_to("query")
        seen.append(images[:2])
        shape = " x ".join(map(str, images.shape[1:]))
        return f"{len(pool)} {kind_of(images).name} of {shape}, {int(pool.labels.max()) + 1} classes"

    def target(path: Path) -> str:
        del path
        found = open_target(section)
        classes = found.query(seen[0]).shape[1] if seen else found.classes
        name = found.network.architecture if found.network else section.architecture
        return name + (f", {classes} classes" if classes else "")

    return [
        check_file("challenge.public", section.public, lambda path: samples(path, known=True)),
        check_file("challenge.private", section.private, lambda path: samples(path, known=False)),
        check_file("challenge.target", section.target, target),
    ]
