"""The command that checks the machine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from jaxmia.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from bridge.target import Target
    from jaxmia.config import ChallengeConfig, Config
    from jaxmia.machine.doctor import Finding

_TRIED = 100
"""Largest number of members, and of non-members, on which the target's accuracy is measured."""


@dataclass
class Doctor:
    """Checks this machine: versions, devices (whether the GPU is used), memory, and the challenge's files.

    The exit status is 1 if something would keep a run from working or from using the GPU.

    Example: jaxmia doctor --config own.yaml
    """

    config: Path | None = None
    """Configuration file (YAML) whose challenge files are checked."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON instead of lines."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Runs the checks."""
        # The checks must not take memory from a GPU in use.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        from jaxmia.cli.display import output
        from jaxmia.cli.overrides import configure
        from jaxmia.files import json_text
        from jaxmia.machine.doctor import examine

        config = configure(self.config, overrides) if self.config or overrides else None
        findings = [*examine(), *(_files(config) if config else [])]
        if self.json:
            output(json_text({"findings": [finding.to_dict() for finding in findings]}, indent=2))
        else:
            output("\n".join(_line(finding) for finding in findings))
        bad = [finding.subject for finding in findings if finding.state == "bad"]
        if bad:
            raise InputError(f"doctor: problems with {', '.join(bad)}")


def _line(finding: "Finding") -> str:
    line = f"{finding.state:<4}  {finding.subject}: {finding.text}"
    return f"{line}\n      -> {finding.remedy}" if finding.remedy else line


def _files(config: "Config") -> list["Finding"]:
    from bridge.challenge import categories_of, load_split
    from bridge.open import open_target
    from jaxmia.data.kinds import kind_of
    from jaxmia.machine.doctor import check_field, check_file

    section = config.challenge
    seen: list[np.ndarray] = []
    targets: list[Target] = []

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
        targets.append(found)
        classes = found.query(seen[0]).shape[1] if seen else found.classes
        name = found.network.architecture if found.network else section.architecture
        return name + (f", {classes} classes" if classes else "")

    findings = [
        check_file("challenge.public", section.public, lambda path: samples(path, known=True)),
        check_file("challenge.private", section.private, lambda path: samples(path, known=False)),
        check_file("challenge.target", section.target, target),
    ]
    if all(finding.state == "ok" for finding in findings):
        classes = targets[0].query(seen[0]).shape[1]
        findings.append(_check_together(section, targets[0], classes))
        findings.append(check_field("shadow", lambda: _shadows(config, targets[0], classes, seen[0])))
    return findings


def _check_together(challenge: "ChallengeConfig", target: "Target", classes: int) -> "Finding":
    """Checks that the files fit each other, and that the target is accurate on the first public samples."""
    import numpy as np

    from bridge.open import open_pool
    from jaxmia.evaluation.accuracy import CHECK_PREPROCESSING, by_membership, chance_accuracy, near_chance
    from jaxmia.machine.doctor import Finding

    try:
        pool = open_pool(challenge, classes)
        tried = np.concatenate([np.flatnonzero(pool.membership == value)[:_TRIED] for value in (1, 0)])
        correct = target.query(pool.images_to("query")[tried]).argmax(1) == pool.labels[tried]
    except InputError as error:
        return Finding("challenge", "bad", str(error))
    groups = by_membership(correct, pool.membership[tried])
    shares = [f"{group.mean():.2f} on {len(group)} {name}" for name, group in groups.items()]
    text = f"accuracy of the target {', '.join(shares)}"
    if not near_chance(correct, pool.labels[tried]):
        return Finding("challenge", "ok", text)
    chance = chance_accuracy(pool.labels[tried])
    return Finding("challenge", "note", f"{text}; {chance:.2f} is chance", CHECK_PREPROCESSING)


def _shadows(config: "Config", target: "Target", classes: int, samples: "np.ndarray") -> str:
    """Describes the network of the shadows, and how it is trained and queried on such samples.

    Raises:
        InputError: They cannot be trained on or queried like this.
    """
    import numpy as np

    from bridge.shadows import shadow_network
    from jaxmia.data.kinds import kind_of
    from jaxmia.data.pool import UNKNOWN, Pool
    from jaxmia.training.ensemble import ForeignNetwork
    from jaxmia.training.setup import shadow_setup

    recipe, query, count = config.shadow, config.query, len(samples)
    unknown = np.full(count, UNKNOWN, np.int8)
    pool = Pool(samples, np.zeros(count, np.int32), np.arange(count).astype(str), unknown)
    views = kind_of(samples).query_views(query.views, query.shift, recipe.augment, samples.shape[1:])
    network = shadow_network(recipe, target, samples, classes)
    setup = shadow_setup(pool, recipe, target.preprocessing, classes, views=views, seed=config.seed, network=network)
    trained = setup.trainer.network
    how = f"one after another in {trained.framework}" if isinstance(trained, ForeignNetwork) else "together in JAX"
    return f"{recipe.architecture}, trained {how}, queried in {len(views)} view{'s' if len(views) > 1 else ''}"
