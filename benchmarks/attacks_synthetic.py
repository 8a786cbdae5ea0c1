"""Compares all attacks and `auto` with the true likelihood ratio, on margins drawn from known distributions.

    python benchmarks/attacks_synthetic.py

It takes about fifteen minutes on two busy cores and writes `benchmarks/results/attacks_synthetic.json` and `.md`.
"""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy.special import gammaln

from jaxmia.attacks import Attack, Evidence
from jaxmia.attacks.catalogue import standard_attacks
from jaxmia.evaluation.metrics import FPRS, tpr_at_fpr
from jaxmia.evaluation.selection import select
from jaxmia.files import write_text
from jaxmia.provenance import commit, processor

RESULTS = Path(__file__).parent / "results"
MODELS = (8, 16, 64, 256)
REPEATS = 4
SAMPLES = 8000
VIEWS = 2
CORRELATION = 0.8  # between views
AUTO_TARGETS = 12


@dataclass(frozen=True)
class World:
    """Distribution from which margins are drawn.

    Shadows have `phi = location + gap * member + spread * (shrink if member else 1) * noise`, with noise that is
    correlated over views; the target has `stretch * (location + kept * gap * member + ...) + shift`.

    Attributes:
        spreads: Draws the spread of each sample.
        gaps: Draws the gap of each sample in spreads, given its difficulty (0 to 1).
        shrink: Ratio of the IN spread to the OUT spread.
        freedom: Degrees of freedom of the noise, a multivariate Student t; infinite for Gaussian noise.
        stretch: Scale of the target's margins relative to the shadows'.
        kept: Fraction of the gap that the target has.
        shift: Shift of the target's margins, in nats.
    """

    spreads: Callable[[np.random.Generator, int], np.ndarray]
    gaps: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    shrink: float = 1.0
    freedom: float = np.inf
    stretch: float = 1.0
    kept: float = 1.0
    shift: float = 0.0


def varied(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.sqrt(6 / rng.chisquare(6, count))


def skewed(rng: np.random.Generator, hard: np.ndarray) -> np.ndarray:
    return rng.gamma(0.8, 1.0, len(hard)) * (0.3 + hard)


def constant(value: float) -> Callable[[np.random.Generator, np.ndarray], np.ndarray]:
    return lambda _, hard: np.full(len(hard), value)


WORLDS = {
    "gaussian": World(lambda _, count: np.ones(count), constant(0.5)),
    "heteroscedastic": World(varied, skewed, shrink=0.9),
    "heavy-tailed": World(varied, skewed, shrink=0.9, freedom=4),
    "mismatched": World(varied, skewed, shrink=0.9, stretch=0.8, kept=0.6, shift=-0.5),
}


@dataclass(frozen=True)
class Draw:
    """Evidence, the target's membership `[sample]` and the true log-likelihood ratio `[sample]`."""

    evidence: Evidence
    members: np.ndarray
    oracle: np.ndarray


def draw(world: World, models: int, seed: int) -> Draw:
    """Draws a challenge, restricted to samples with IN and OUT models, which most attacks need."""
    rng = np.random.default_rng(seed)
    member = rng.random((models + 1, SAMPLES)) < 0.5
    others = member[1:]
    kept = np.flatnonzero(others.any(0) & ~others.all(0))
    location = rng.normal(4, 2.5, SAMPLES)
    hard = 1 / (1 + np.exp((location - 3) / 1.5))
    spread = world.spreads(rng, SAMPLES)
    gap = spread * world.gaps(rng, hard)
    shape = (models + 1, VIEWS, SAMPLES)
    noise = np.sqrt(CORRELATION) * rng.normal(size=(models + 1, 1, SAMPLES))
    noise = noise + np.sqrt(1 - CORRELATION) * rng.normal(size=shape)
    if np.isfinite(world.freedom):
        noise *= np.sqrt(world.freedom / rng.chisquare(world.freedom, (models + 1, 1, SAMPLES)))
    in_spread = world.shrink * spread
    share = np.concatenate([[world.kept], np.ones(models)])[:, None]
    phi = (location + share * gap * member)[:, None] + np.where(member, in_spread, spread)[:, None] * noise
    oracle = log_density(phi[0], location + world.kept * gap, in_spread, world.freedom)
    oracle -= log_density(phi[0], location, spread, world.freedom)
    target = world.stretch * phi[0] + world.shift
    evidence = Evidence(target, phi[1:].astype(np.float32), others, np.zeros(SAMPLES, int)).take(kept)
    return Draw(evidence, member[0, kept], oracle[kept])


def log_density(phi: np.ndarray, center: np.ndarray, spread: np.ndarray, freedom: float) -> np.ndarray:
    """Joint log-density of the views, multivariate Gaussian or Student t with equal correlations, `[sample]`."""
    covariance = np.full((VIEWS, VIEWS), CORRELATION) + (1 - CORRELATION) * np.eye(VIEWS)
    x = (phi - center) / spread
    distance = np.einsum("vn,vw,wn->n", x, np.linalg.inv(covariance), x)
    if np.isinf(freedom):
        return -distance / 2 - VIEWS * np.log(spread)
    constant = gammaln((freedom + VIEWS) / 2) - gammaln(freedom / 2)
    return constant - (freedom + VIEWS) / 2 * np.log1p(distance / freedom) - VIEWS * np.log(spread)


def measure(world: World, models: int, menu: list[Attack]) -> dict[str, list[list[float]]]:
    """TPRs `[repeat][fpr]` of each attack, `auto` and `oracle`, and the attack that `auto` selected in each repeat."""
    result: dict[str, list] = {}
    for repeat in range(REPEATS):
        drawn = draw(world, models, seed=1000 * repeat + models)
        selection = select(drawn.evidence, menu, 0.05, targets=AUTO_TARGETS)
        scores = {attack.name: attack(drawn.evidence) for attack in menu}
        scores |= {"auto": selection.chosen(drawn.evidence), "oracle": drawn.oracle}
        for name, score in scores.items():
            tprs = [round(tpr_at_fpr(score, drawn.members, fpr), 5) for fpr in FPRS]
            result.setdefault(name, []).append(tprs)
        result.setdefault("chosen", []).append(selection.chosen.name)
    return result


def table(results: dict[str, dict[int, dict[str, list]]]) -> str:
    """Formats mean TPRs in percent with their standard errors over repeats, one table per distribution and FPR."""
    lines: list[str] = []
    for world, by_models in results.items():
        for index, fpr in enumerate(FPRS):
            lines += ["", f"### {world}, TPR at {fpr:.1%} FPR, in percent", ""]
            lines += ["| attack | " + " | ".join(f"{models} models" for models in by_models) + " |"]
            lines += ["| --- |" + " ---: |" * len(by_models)]
            for name in next(iter(by_models.values())):
                if name != "chosen":
                    cells = [np.array(found[name])[:, index] * 100 for found in by_models.values()]
                    shown = [f"{cell.mean():.2f} ± {cell.std(ddof=1) / np.sqrt(len(cell)):.2f}" for cell in cells]
                    lines.append(f"| {name} | " + " | ".join(shown) + " |")
        chosen = [f"at {models}: {', '.join(sorted(set(found['chosen'])))}" for models, found in by_models.items()]
        lines += ["", f"`auto` selected {'; '.join(chosen)}."]
    return "\n".join(lines)


def page(results: dict[str, dict[int, dict[str, list]]], origin: dict[str, Any]) -> str:
    """Formats the results as Markdown."""
    return (
        "# Attacks on synthetic margins\n\n"
        f"{origin['samples']} samples, {origin['views']} views, mean of {origin['repeats']} repeats ± its standard\n"
        f"error. `auto` selects at 5 % FPR on at most {origin['auto_targets']} pseudo-targets; `oracle` is the true\n"
        f"likelihood ratio. Made by `benchmarks/attacks_synthetic.py` at commit {origin['commit']} on\n"
        f"{origin['device']}, in {origin['seconds']} s.\n" + table(results) + "\n"
    )


def main() -> None:
    start, begun_at = time.monotonic(), commit()
    menu = standard_attacks()
    results = {name: {models: measure(world, models, menu) for models in MODELS} for name, world in WORLDS.items()}
    origin = {
        "commit": begun_at,
        "device": processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "seconds": round(time.monotonic() - start),
        "samples": SAMPLES,
        "views": VIEWS,
        "repeats": REPEATS,
        "auto_targets": AUTO_TARGETS,
        "fprs": FPRS,
    }
    write_text(RESULTS / "attacks_synthetic.json", json.dumps({"origin": origin, "tpr": results}) + "\n")
    write_text(RESULTS / "attacks_synthetic.md", page(results, origin))


if __name__ == "__main__":
    main()
