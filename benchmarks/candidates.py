"""Compares candidates for the catalogue of attacks on pseudo-targets.

    python -m benchmarks.candidates train --minutes 9
    python -m benchmarks.candidates report

`train` computes the missing margins, and resumes if it is run again. `report` needs only the margins and writes
`benchmarks/results/statistics_cpu.md`. There are four recipes, from little leakage to overfitted, each with its own
shadows on several draws of photographs.
"""

import logging
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
from scipy.stats import norm, trim_mean
from sklearn.linear_model import LogisticRegression

from benchmarks.command import train_or_report
from benchmarks.make_challenge import make_pool
from jaxmia import train_shadows
from jaxmia.attacks import (
    Adaptive,
    Attack,
    Base,
    Bavaria,
    Calibrated,
    Evidence,
    LiraMultivariate,
    LiraOnline,
    Margin,
    Rmia,
)
from jaxmia.attacks.base import log_ratios
from jaxmia.attacks.moments import log_probability
from jaxmia.attacks.signal import weights
from jaxmia.config import Augment, EnsembleConfig, Recipe
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.evaluation.metrics import auc, tpr_at_fpr
from jaxmia.evaluation.selection import _grow_fusions, _ranks, _tprs, _Trial, choose
from jaxmia.files import load_npz, save_npz
from jaxmia.provenance import commit, processor

logger = logging.getLogger(__name__)

OUT = Path("runs/statistics")
RESULTS = Path(__file__).parent / "results/statistics_cpu.md"
SEEDS = (4101, 4102)
"""Seeds of the photographs, masks and weights."""

SHADOWS = 40
TARGETS = 10
COUNTS = (1, 2, 18)
"""Views: the identity, the mirror image, and both shifted by one pixel in the eight directions."""

FPR = 0.05
SAMPLES = 2400
SIDE = 12
MEAN, STD = (0.47,), (0.25,)

_COMMON = Recipe(architecture="cnn", width=16, count=SHADOWS, batch_size=64, precision="float32")
RECIPES = {
    "little leakage": _COMMON.model_copy(update={"epochs": 10, "augment": Augment(crop=1, flip=True)}),
    "augmented": _COMMON.model_copy(update={"epochs": 27, "augment": Augment(crop=1, flip=True)}),
    "smoothed": _COMMON.model_copy(update={"epochs": 17, "label_smoothing": 0.1, "augment": Augment(flip=True)}),
    "overfitted": _COMMON.model_copy(update={"epochs": 38, "weight_decay": 1e-4}),
}


def margins_path(out: Path, recipe: str, seed: int) -> Path:
    return out / f"{recipe.replace(' ', '-')}-{seed}.npz"


def train(out: Path, images: Path, recipe: str, seed: int) -> None:
    """Trains the shadows of one recipe on one draw of photographs, and saves their margins."""
    pool, _ = make_pool(images, SAMPLES, 0, 28, seed)
    started = time.perf_counter()
    shadows = train_shadows(
        pool,
        RECIPES[recipe],
        Preprocessing(SIDE, MEAN, STD),
        symmetries=("identity", "hflip"),
        shift=1,
        ensemble=EnsembleConfig(width=20, conv="native"),
        seed=seed,
    )
    seconds = time.perf_counter() - started
    logger.info(f"{recipe}, seed {seed}: {SHADOWS} shadows in {seconds:.0f} s")
    save_npz(
        margins_path(out, recipe, seed),
        {"phi": shadows.phi, "mask": shadows.mask, "labels": pool.labels, "seconds": np.array(seconds)},
    )


@dataclass(frozen=True)
class TrimmedBase:
    """`log p - log pbar` with the 20 % trimmed mean over all models as `pbar`, as in Privacy Meter's RMIA."""

    temperature: float = 2.0

    @property
    def name(self) -> str:
        return f"trimmed-base-{self.temperature:g}"

    def __call__(self, evidence: Evidence) -> np.ndarray:
        mapping = weights(evidence, "fisher")[0] / self.temperature
        p = np.exp(log_probability(np.tensordot(evidence.shadows, mapping, ((1,), (0,)))))
        return log_probability(mapping @ evidence.target) - np.log(trim_mean(p, 0.2, axis=0))


@dataclass(frozen=True)
class VotingRmia:
    """RMIA whose views vote by majority, as published; ties are broken by the mean fraction."""

    name: str = "voting-rmia"

    def __call__(self, evidence: Evidence) -> np.ndarray:
        ratios = log_ratios(evidence, None)
        shares = [np.searchsorted(np.sort(row), row - np.log(2)) / len(row) for row in ratios]
        return (np.array(shares) > 0.5).mean(0) + 1e-6 * np.mean(shares, axis=0)


AUTO_BEFORE, AUTO, LINEAR = "auto over plain means", "auto", "linear combination"

COMPARISONS: tuple[tuple[str, Attack | str, Attack | str], ...] = (
    ("Fisher weights, `calibrated`", Calibrated("fisher"), Calibrated()),
    ("Fisher weights, LiRA `shrunk`", LiraOnline("shrunk", "fisher"), LiraOnline("shrunk")),
    ("Fisher weights, `bavaria-student`", Bavaria("student", "fisher"), Bavaria("student")),
    ("Fisher weights, BASE", Base(views="fisher"), Base()),
    ("Fisher weights, `adaptive`", Adaptive("fisher"), Adaptive()),
    ("Fisher weights against each view, `adaptive`", Adaptive("fisher"), Adaptive("each")),
    ("BASE: temperature 1.5 against 1", Base(None, 1.5, "fisher"), Base(views="fisher")),
    ("BASE: temperature 2 against 1", Base(None, 2.0, "fisher"), Base(views="fisher")),
    ("BASE: temperature 3 against 1", Base(None, 3.0, "fisher"), Base(views="fisher")),
    ("BASE: trimmed against plain mean, temperature 1", TrimmedBase(1.0), Base(views="fisher")),
    ("BASE: trimmed against plain mean, temperature 2", TrimmedBase(2.0), Base(None, 2.0, "fisher")),
    ("RMIA: majority vote against mean fraction", VotingRmia(), Rmia()),
    ("Offline slope .95 against .8", Base(0.95, 2.0, "fisher"), Base(0.8, 2.0, "fisher")),
    ("Offline slope .95 against .3", Base(0.95, 2.0, "fisher"), Base(0.3, 2.0, "fisher")),
    ("LiRA: `tied-shrunk` against `tied`", LiraOnline("tied-shrunk", "fisher"), LiraOnline("tied", "fisher")),
    ("LiRA: `tied-shrunk` against `shrunk`", LiraOnline("tied-shrunk", "fisher"), LiraOnline("shrunk", "fisher")),
    ("`lira-multivariate` against LiRA `shrunk`", LiraMultivariate(), LiraOnline("shrunk", "fisher")),
    ("`auto` against `auto` over plain means", AUTO, AUTO_BEFORE),
    ("linear combination against `auto`", LINEAR, AUTO),
)
"""Title of each comparison, the candidate, and what it is compared with."""

_IN_AUTO = (
    Margin(),
    Calibrated("fisher"),
    LiraOnline("global", "fisher"),
    LiraOnline("tied-shrunk", "fisher"),
    LiraOnline("shrunk", "fisher"),
    Rmia(),
    Base(None, 2.0, "fisher"),
    Bavaria("student", "fisher"),
    LiraMultivariate(),
    Adaptive("fisher"),
)
_IN_AUTO_BEFORE = (
    Margin(),
    Calibrated(),
    LiraOnline("global"),
    LiraOnline("tied"),
    LiraOnline("shrunk"),
    Rmia(),
    Base(),
    Bavaria("student"),
    Adaptive(),
    Adaptive("each"),
)

Figures = dict[str, np.ndarray]
"""TPR at 5 % FPR and AUC on each pseudo-target, `[target, 2]`, by name."""


def evidence_of(path: Path, count: int) -> Evidence:
    """Evidence of the shadows in their first `count` views; its target is not used."""
    arrays = load_npz(path)
    phi = arrays["phi"][:, :count]
    return Evidence(phi[0], phi, arrays["mask"], arrays["labels"])


def compare(evidence: Evidence) -> Figures:
    """Applies every candidate to some shadows as pseudo-targets; the other ones select `auto` and the combination."""
    attacks = {attack.name: attack for _, *pair in COMPARISONS for attack in pair if not isinstance(attack, str)}
    attacks |= {attack.name: attack for attack in (*_IN_AUTO, *_IN_AUTO_BEFORE)}
    names = list(attacks)
    trials = [
        _Trial(members, np.stack([_ranks(attack, against) for attack in attacks.values()]))
        for against, members in evidence.pseudo_targets(list(range(0, SHADOWS, SHADOWS // TARGETS)))
    ]
    found = {
        name: np.array([_figures(trial.ranks[index], trial.members) for trial in trials])
        for index, name in enumerate(names)
    }
    for name, candidates in ((AUTO, _IN_AUTO), (AUTO_BEFORE, _IN_AUTO_BEFORE)):
        found[name] = _chosen_on_the_others(trials, [names.index(attack.name) for attack in candidates])
    found[LINEAR] = _combined_on_the_others(trials, [names.index(attack.name) for attack in _IN_AUTO])
    return found


def _figures(scores: np.ndarray, members: np.ndarray) -> tuple[float, float]:
    return tpr_at_fpr(scores, members, FPR), auc(scores, members)


def _chosen_on_the_others(trials: list[_Trial], candidates: list[int]) -> np.ndarray:
    own = [_Trial(trial.members, trial.ranks[candidates]) for trial in trials]
    singles = [(index,) for index in range(len(candidates))]
    found = []
    for index, trial in enumerate(own):
        others = own[:index] + own[index + 1 :]
        tprs = _tprs(others, singles, FPR)
        fusions = _grow_fusions(others, tprs, FPR)
        chosen = (singles + fusions)[choose(np.concatenate([tprs, _tprs(others, fusions, FPR)]))]
        found.append(_figures(trial.fused(chosen), trial.members))
    return np.array(found)


def _combined_on_the_others(trials: list[_Trial], candidates: list[int]) -> np.ndarray:
    """Combines the candidates by a logistic regression on the normal scores of their ranks."""
    scores = [norm.ppf(trial.ranks[candidates] * (1 - 1 / trial.ranks.shape[1])).T for trial in trials]
    found = []
    for index, trial in enumerate(trials):
        others = [other for other in range(len(trials)) if other != index]
        fit = LogisticRegression().fit(
            np.concatenate([scores[other] for other in others]),
            np.concatenate([trials[other].members for other in others]),
        )
        found.append(_figures(scores[index] @ fit.coef_[0], trial.members))
    return np.array(found)


def report(out: Path) -> str:
    """Formats the comparison as Markdown tables."""
    began, commit_ = time.monotonic(), commit()
    lines: list[str] = []
    for count in COUNTS:
        by_recipe: dict[str, Figures] = {}
        for recipe in RECIPES:
            paths = [path for seed in SEEDS if (path := margins_path(out, recipe, seed)).exists()]
            parts = [compare(evidence_of(path, count)) for path in paths]
            by_recipe[recipe] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        lines += ["", f"## {count} view{'s' if count > 1 else ''}"]
        for column, title in ((0, "TPR at 5 % FPR"), (1, "AUC")):
            lines += ["", f"{title}, points gained:", "", "| compared | " + " | ".join(RECIPES) + " | mean |"]
            lines += ["| --- |" + " ---: |" * (len(RECIPES) + 1)]
            lines += [
                f"| {title} | " + " | ".join(_cells(by_recipe, _name(one), _name(other), column)) + " |"
                for title, one, other in COMPARISONS
            ]
            lines += [f"| *{AUTO} itself* | " + " | ".join(_levels(by_recipe, column)) + " |"]
    sets = [path.stem for seed in SEEDS for recipe in RECIPES if (path := margins_path(out, recipe, seed)).exists()]
    seconds = sum(float(load_npz(out / f"{name}.npz")["seconds"]) for name in sets)
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    about = [
        "# Candidates for the catalogue",
        "",
        f"{SAMPLES:,} photographs at {SIDE}x{SIDE}, with {SHADOWS} shadows (`cnn` of width 16) for each recipe and "
        f"draw of photographs, {TARGETS} of which serve as pseudo-targets. Paired differences in percentage points, "
        "with their standard error over pseudo-targets; it does not include the chance in shadows and photographs, "
        "which those of one draw share. The difference of two attacks that are the same with one view is 0 there. "
        "`auto` and the linear combination (logistic regression over ranks) are selected on the other pseudo-targets.",
        "",
        f"Sets (recipe and seed): {', '.join(sets)}. Trained in {seconds:,.0f} s, compared in "
        f"{time.monotonic() - began:,.0f} s on {processor()}, shared with other work; {versions}; commit {commit_}. "
        "Made by `python -m benchmarks.candidates`.",
    ]
    return "\n".join([*about, *lines]) + "\n"


def _name(attack: Attack | str) -> str:
    return attack if isinstance(attack, str) else attack.name


def _cells(by_recipe: dict[str, Figures], one: str, other: str, column: int) -> list[str]:
    gains = [100 * (found[one] - found[other])[:, column] for found in by_recipe.values()]
    errors = [gain.std(ddof=1) / np.sqrt(len(gain)) for gain in gains]
    mean, error = np.mean([gain.mean() for gain in gains]), np.sqrt(np.sum(np.square(errors))) / len(gains)
    pairs = [*((gain.mean(), own) for gain, own in zip(gains, errors, strict=True)), (mean, error)]
    return [f"{gain:+.2f} ± {own:.2f}" for gain, own in pairs]


def _levels(by_recipe: dict[str, Figures], column: int) -> list[str]:
    levels = [100 * found[AUTO][:, column].mean() for found in by_recipe.values()]
    return [f"{level:.2f}" for level in (*levels, np.mean(levels))]


def main() -> None:
    """Parses the command line, and trains or reports."""
    sets = [(recipe, seed) for seed in SEEDS for recipe in RECIPES]
    train_or_report(__doc__ or "", OUT, RESULTS, sets, margins_path=margins_path, train=train, report=report)


if __name__ == "__main__":
    main()
