"""What attacks gain from fixed memberships and from views on real images, compared with published attacks.

    python -m benchmarks.study.known train --out runs/known --images images.npz
    python -m benchmarks.study.known report --out runs/known

`train` makes the margins that are missing, the most needed first; it can be stopped at any time, and the same command
resumes. `report` attacks with what is there and writes `study_known_cpu.json`, `.md` and `.png` in
`benchmarks/results`.
"""

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study import published, variants
from benchmarks.study.known_tables import draw, page
from benchmarks.study.sets import (
    CHUNK,
    CURVE,
    KNOWN,
    RANDOM_SHADOWS,
    REGIMES,
    SHADOWS,
    Maker,
    Part,
    Regime,
    parts,
    read,
    shadows,
    targets,
)
from benchmarks.study.variants import (
    BOTH,
    ONE,
    PUBLISHED_WITH,
    VARIANTS,
    Variant,
    measure,
    measure_published,
    situation,
)
from jaxmia.cli.display import show_messages
from jaxmia.files import load_npz, write_text
from jaxmia.provenance import digest, origin
from jaxmia.training.devices import prepare_devices

logger = logging.getLogger(__name__)

IMAGES = Path("../shared/data/cifar9_jpeg.npz")
OUT = Path("runs/known")
RESULTS = Path(__file__).parents[1] / "results/study_known_cpu"
COUNTS = (8, 16, 32, SHADOWS)
ON_CURVE = CHUNK
"""Shadows of the shares in between."""

Cell = dict[str, Any]


def cells(regime: Regime) -> Iterator[tuple[Variant, int]]:
    """What is measured in a regime: variants and numbers of shadows, each once."""
    seen = set()
    wanted = [(variant, count) for count in COUNTS for variant in (*VARIANTS, ONE)]
    wanted += [(variant, RANDOM_SHADOWS) for variant in PUBLISHED_WITH]
    wanted += [(Variant(BOTH.name, share, BOTH.views), ON_CURVE) for share in CURVE]
    for variant, count in wanted:
        key = variant.known, len(variant.columns(regime)), count
        if key not in seen:
            seen.add(key)
            yield variant, count


def measured(out: Path, regime: Regime, variant: Variant, count: int) -> Cell | None:
    """A cell of the tables, measured once for the same margins and attacks; None where models are missing."""
    used, against = shadows(regime, variant.known, max(count, CHUNK)), targets(regime)
    if not all(part.path(out).exists() for part in (*used, against)):
        return None
    columns = variant.columns(regime)
    kept = out / "measured" / f"{_stamp(out, [*used, against], columns, count)}.json"
    if not kept.exists():
        logger.info(f"{regime.name}: {variant.known:g} fixed, {len(columns)} views, {count} shadows")
        one = situation(read(out, used), read(out, [against]), regime.seed, variant.known, count, columns)
        only_published = count > SHADOWS or (variant == ONE and len(columns) > 1)
        found = {} if only_published else measure(one)
        write_text(kept, json.dumps({**found, "published": measure_published(one)}) + "\n")
    about = {"regime": regime.name, "known": variant.known, "views": len(columns), "models": count}
    return {**about, **json.loads(kept.read_text())}


def _stamp(out: Path, used: list[Part], columns: list[int], count: int) -> str:
    sources = [Path(str(module.__file__)) for module in (variants, published)]
    files = [part.path(out) for part in used]
    return digest(f"{count} {len(columns)}".encode(), *(path.read_bytes() for path in (*files, *sources)))


def report(out: Path, path: Path) -> None:
    """Measures what can be measured, and writes the page, its figures and its plots."""
    found = [cell for regime in REGIMES for wanted in cells(regime) if (cell := measured(out, regime, *wanted))]
    accuracy = {regime.name: read(out, [targets(regime)])["accuracy"].tolist() for regime in REGIMES}
    seconds = {regime.name: _fastest(out, regime) for regime in REGIMES}
    result = {"origin": origin(), "accuracy": accuracy, "seconds": seconds, "cells": found}
    write_text(path.with_suffix(".json"), json.dumps(result) + "\n")
    write_text(path.with_suffix(".md"), page(result))
    draw(result, path.with_suffix(".png"))


def _fastest(out: Path, regime: Regime) -> list[float]:
    """Seconds of training and of queries of the fastest parts."""
    made = [path for share in (0.0, KNOWN) for part in shadows(regime, share) if (path := part.path(out)).exists()]
    return np.min([load_npz(path)["seconds"] for path in made], axis=0).tolist()


def main() -> None:
    """Parses the command line and does one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "report"))
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the margins")
    parser.add_argument("--images", type=Path, default=IMAGES, help="npz of images and labels")
    options = parser.parse_args()
    show_messages(logging.INFO)
    if options.what == "report":
        report(options.out, RESULTS)
        return
    prepare_devices()
    maker = Maker(options.images, options.out)
    for part in parts():
        maker.train(part)


if __name__ == "__main__":
    main()
