"""Compares attacks whose shadows are MLPs trained in bfloat16 with those in float32, on a CPU.

    python -m benchmarks.precision --out runs/precision --images images.npz

Targets are trained in float32, as most are. They are attacked by `auto` with as many shadows of either precision, on
the same photographs, with the same masks and initial weights.
"""

import argparse
import logging
from pathlib import Path

import numpy as np

from benchmarks.study.known import IMAGES
from benchmarks.study.sets import CHUNK, HALF, KNOWN, OWN, SIDE, Maker, Regime, read, shadows, targets
from benchmarks.study.strength import mean_of
from benchmarks.study.tables import TITLES, points, table
from benchmarks.study.variants import BOTH, FIGURES, Arrays, measure, situation
from jaxmia.attacks.catalogue import AUTO
from jaxmia.cli.display import show_messages
from jaxmia.config import Augment, Recipe
from jaxmia.files import load_npz, write_text
from jaxmia.provenance import origin
from jaxmia.training.devices import prepare_devices

RESULTS = Path(__file__).parent / "results/precision_cpu.md"
SHADOWS = 32
PRECISIONS = ("float32", "bfloat16")

_MLP = Recipe(architecture="mlp", width=256, batch_size=64, learning_rate=0.05)
_CASES = (
    ("little leakage", 6301, {"epochs": 6, "augment": Augment(crop=1, flip=True)}),
    ("augmented", 6302, {"epochs": 40, "augment": Augment(crop=1, flip=True)}),
    ("smoothed", 6303, {"epochs": 15, "label_smoothing": 0.08, "augment": Augment(flip=True)}),
    ("overfitted", 6304, {"epochs": 30}),
    ("64 units", 6305, {"epochs": 40, "width": 64}),
    ("batch norm, dropout", 6306, {"epochs": 20, "norm": "batch", "dropout": 0.2}),
    ("AdamW", 6307, {"epochs": 12, "optimizer": "adamw", "learning_rate": 0.001}),
)


def regime_of(name: str, seed: int, fields: dict, precision: str) -> Regime:
    """A regime of MLPs in a precision."""
    return Regime(f"{name} {precision}", seed, _MLP.model_copy(update={**fields, "precision": precision}))


def train(out: Path, images: Path) -> None:
    """Trains what is missing: targets in float32, and shadows in both precisions."""
    regimes = tuple(regime_of(*case, precision) for case in _CASES for precision in PRECISIONS)
    maker = Maker(images, out, regimes)
    for regime in regimes:
        parts = shadows(regime, KNOWN, SHADOWS)
        for part in [targets(regime), *parts] if regime.recipe.precision == "float32" else parts:
            maker.train(part)


def figures(out: Path, case: tuple[str, int, dict], precision: str) -> dict[str, np.ndarray]:
    """Figures of `auto` with shadows of a precision against the targets of their recipe, `[target]` each."""
    regime = regime_of(*case, precision)
    against: Arrays = read(out, [targets(regime_of(*case, "float32"))])
    one = situation(
        read(out, shadows(regime, KNOWN, SHADOWS)), against, regime.seed, KNOWN, SHADOWS, BOTH.columns(regime)
    )
    return {figure: np.array(values[:OWN]) for figure, values in measure(one)[AUTO].items()}


def page(out: Path) -> str:
    """Formats the results as Markdown tables."""
    found = {case[0]: [figures(out, case, precision) for precision in PRECISIONS] for case in _CASES}
    made = origin()
    lines = [
        "# MLPs in bfloat16 on a CPU: is the attack weaker?",
        "",
        f"MLPs of 256 units (or 64) on photographs of {SIDE} x {SIDE} pixels, {HALF:,} public and {HALF:,} private. In",
        f"each regime {OWN} targets, trained in float32, are attacked by `auto` with {SHADOWS} shadows of their",
        "recipe, trained in float32 or in bfloat16 with the same masks and initial weights. Figures of the private",
        "samples in percent, and the difference in points, paired by target, with 95 % intervals (Student's, over",
        "targets).",
        "",
    ]
    for figure in FIGURES:
        rows = []
        for name, (wide, narrow) in found.items():
            rows.append([name, *_row([wide[figure]], [narrow[figure]])])
        rows.append(
            ["mean", *_row([each[0][figure] for each in found.values()], [each[1][figure] for each in found.values()])]
        )
        lines += [*table([TITLES[figure], *PRECISIONS, "difference"], rows), ""]
    seconds = [[_seconds(out, regime_of(*case, precision)) for precision in PRECISIONS] for case in _CASES]
    rows = [[case[0], *(f"{spent:.1f}" for spent in both)] for case, both in zip(_CASES, seconds, strict=True)]
    lines += [
        f"Seconds of training {CHUNK} shadows, the quicker of two chunks, without compilation where it is the second:",
        "",
        *table(["regime", *PRECISIONS], rows),
        "",
        f"Made by `python -m benchmarks.precision` at commit {made['commit']} on {made['device']}, JAX {made['jax']}.",
    ]
    return "\n".join(lines) + "\n"


def _row(wide: list[np.ndarray], narrow: list[np.ndarray]) -> list[str]:
    gain = mean_of([one - other for one, other in zip(narrow, wide, strict=True)])
    return [*(f"{100 * np.mean(values):.1f}" for values in (wide, narrow)), points(gain)]


def _seconds(out: Path, regime: Regime) -> float:
    return min(float(load_npz(part.path(out))["seconds"][0]) for part in shadows(regime, KNOWN, SHADOWS))


def main() -> None:
    """Parses the command line, trains what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/precision"), help="folder of the margins")
    parser.add_argument("--images", type=Path, default=IMAGES, help="npz of images and labels")
    options = parser.parse_args()
    show_messages(logging.INFO)
    prepare_devices()
    train(options.out, options.images)
    write_text(RESULTS, page(options.out))


if __name__ == "__main__":
    main()
