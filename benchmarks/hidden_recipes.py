"""Measures how often each distance between shadows and a target finds the target's recipe.

    python -m benchmarks.hidden_recipes train --minutes 9
    python -m benchmarks.hidden_recipes report

`train` computes the missing margins, and resumes if it is run again. `report` needs only the margins and writes
`benchmarks/results/hidden_recipes_cpu.md`. Several targets are trained by each recipe of a grid, on the known public
members. A search has to find the recipe of a target among all recipes of the grid, with four models of each.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
from scipy.stats import t as student
from scipy.stats import wasserstein_distance

from benchmarks.command import train_or_report
from benchmarks.make_challenge import make_pool
from jaxmia.config import Augment, EnsembleConfig, Recipe
from jaxmia.data.masks import Masks
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.views import View
from jaxmia.files import load_npz, save_npz
from jaxmia.matching.likeness import recipe_distances
from jaxmia.matching.trials import Outcome, TrialTrainer, programs
from jaxmia.provenance import commit, processor
from jaxmia.training.setup import shadow_setup

logger = logging.getLogger("benchmarks.hidden_recipes")

OUT = Path("runs/hidden_recipes")
RESULTS = Path(__file__).parent / "results/hidden_recipes_cpu.md"

SIDE = 12
PUBLIC, PRIVATE = 600, 600
MEAN, STD = (0.47,), (0.25,)
SEEDS = (5101, 5102)
"""Seeds of the photographs; masks and weights of the models follow from them."""

MODELS = 4
"""Number of models of each recipe in a search."""

FEW = 20
"""Smallest number of members and of non-members with which a class is compared separately."""

TARGETS = 2
"""Number of further models of each recipe that serve as targets."""

_COMMON = Recipe(architecture="cnn", width=16, batch_size=64, precision="float32")
GRID = tuple(
    _COMMON.model_copy(
        update={"epochs": epochs, "learning_rate": rate, "label_smoothing": smoothing, "augment": augment}
    )
    for epochs, rate, smoothing, augment in product(
        (12, 24),
        (0.03, 0.1),
        (0.0, 0.1),
        (Augment(), Augment(flip=True), Augment(crop=1), Augment(crop=1, flip=True)),
    )
)


def margins_path(out: Path, seed: int, kind: str) -> Path:
    """File of the margins of all recipes' models, `kind` of masks: `fixed` or `random` on the public samples."""
    return out / f"{kind}-{seed}.npz"


def train(out: Path, images: Path, seed: int, kind: str) -> None:
    """Trains the models of all recipes on one draw of photographs, and saves their margins."""
    pool, _ = make_pool(images, PUBLIC, PRIVATE, 28, seed)
    setup = shadow_setup(
        pool, GRID[0], Preprocessing(SIDE, MEAN, STD), int(pool.labels.max()) + 1, views=(View(),), seed=seed
    )
    if kind == "fixed":
        setup = replace(setup, masks=Masks.knowing(seed, pool.membership, 1.0))
        count = MODELS + TARGETS
    else:
        setup = replace(setup, masks=Masks.random(seed + 1, len(pool)))
        count = MODELS
    started = time.perf_counter()
    phi, correct = (np.empty((len(GRID), count, len(pool)), kind_) for kind_ in (np.float32, bool))

    def keep(number: int, outcome: Outcome) -> None:
        at = divmod(number, count)
        phi[at], correct[at] = outcome.phi, outcome.correct

    for group in programs(GRID):
        own = setup.with_recipe(GRID[group[0]])
        plan = own.plan(EnsembleConfig(width=24, conv="native"), len(group) * count)
        numbers = [place * count + model for place in group for model in range(count)]
        TrialTrainer(own.ensemble(plan), GRID, count, own.masks).train(numbers, keep)
        logger.info(f"{kind}, seed {seed}: {GRID[group[0]].augment} done after {time.perf_counter() - started:.0f} s")
    save_npz(
        margins_path(out, seed, kind),
        {
            "phi": phi,
            "correct": correct,
            "mask": setup.masks(range(count)),
            "labels": pool.labels,
            "membership": pool.membership,
            "seconds": np.array(time.perf_counter() - started),
        },
    )


@dataclass(frozen=True)
class Set:
    """Margins of all recipes' models on the public samples of one draw of photographs.

    Attributes:
        members: Whether a sample is a member, as far as the attacker knows, bool `[sample]`.
        labels: Classes, int `[sample]`.
        fixed: Margins of models trained on exactly these members, `[recipe, model, sample]`.
        random: Margins of models with random masks, `[recipe, model, sample]`.
        mask: The random masks, bool `[model, sample]`.
    """

    members: np.ndarray
    labels: np.ndarray
    fixed: np.ndarray
    random: np.ndarray
    mask: np.ndarray


def read_set(out: Path, seed: int) -> Set:
    fixed, random = (load_npz(margins_path(out, seed, kind)) for kind in ("fixed", "random"))
    public = fixed["membership"] >= 0
    return Set(
        members=fixed["membership"][public] == 1,
        labels=fixed["labels"][public],
        fixed=fixed["phi"][..., public].astype(np.float64),
        random=random["phi"][..., public].astype(np.float64),
        mask=random["mask"][:, public],
    )


def by_distributions(one: Set, target: np.ndarray, phi: np.ndarray, mask: np.ndarray) -> float:
    """Energy score of Wasserstein-1 distances between the margins of members, and of non-members, class by class.

    Classes with few members or few non-members are pooled.
    """
    few = [
        label
        for label in set(one.labels)
        if min((one.members & (one.labels == label)).sum(), (~one.members & (one.labels == label)).sum()) < FEW
    ]
    strata = np.where(np.isin(one.labels, few), -1, one.labels)
    models = [(target, one.members), *zip(phi, mask, strict=True)]
    parts = [
        [[margins[side & (strata == stratum)] for stratum in np.unique(strata)] for side in (trained, ~trained)]
        for margins, trained in models
    ]

    def distance(a: int, b: int) -> float:
        means = []
        for x, y in zip(parts[a], parts[b], strict=True):
            gaps = [wasserstein_distance(own, other) for own, other in zip(x, y, strict=True)]
            means.append(np.average(gaps, weights=[len(own) for own in x]))
        return float(np.mean(means))

    numbers = range(1, len(models))
    own, pairs = ([distance(*pair) for pair in of] for of in (((0, k) for k in numbers), combinations(numbers, 2)))
    return float(np.mean(own) - np.mean(pairs) / 2)


def by_sample(one: Set, target: np.ndarray, phi: np.ndarray, mask: np.ndarray) -> float:
    """Energy score of mean absolute differences sample by sample, as in `jaxmia match`."""
    return recipe_distances(target, one.members, phi, mask, np.zeros_like(mask)).energy_score


def by_student(one: Set, target: np.ndarray, phi: np.ndarray, mask: np.ndarray) -> float:
    """Mean negative log-density under each sample's Student distribution, with variances shrunk to their mean."""
    del mask
    models = len(phi)
    center, sum_sq = phi.mean(0), phi.var(0) * models
    own, prior = models - 1, 4.0
    pooled = np.where(one.members, sum_sq[one.members].mean(), sum_sq[~one.members].mean()) / own
    variance = (sum_sq + prior * pooled) / (own + prior) * (1 + 1 / models)
    return float(-student.logpdf(target, own + prior, center, np.sqrt(variance)).mean())


METHODS: dict[str, tuple[str, Callable[..., float]]] = {
    "distributions, random members": ("random", by_distributions),
    "distributions, fixed members": ("fixed", by_distributions),
    "sample by sample, random members": ("random", by_sample),
    "sample by sample, fixed members": ("fixed", by_sample),
    "Student by sample, fixed members": ("fixed", by_student),
}


def search(one: Set, method: str, recipe: int, model: int) -> int:
    """Returns the recipe that a method finds if a model of `recipe` is the target, with models of other numbers."""
    kind, score = METHODS[method]
    rows = [number for number in range(MODELS + 1) if number != model][:MODELS]
    phi, mask = (one.fixed[:, rows], np.tile(one.members, (MODELS, 1))) if kind == "fixed" else (one.random, one.mask)
    return int(np.argmin([score(one, one.fixed[recipe, model], margins, mask) for margins in phi]))


def report(out: Path) -> str:
    """Formats the results as a Markdown table."""
    seeds = [seed for seed in SEEDS if all(margins_path(out, seed, kind).exists() for kind in ("fixed", "random"))]
    sets = [read_set(out, seed) for seed in seeds]
    true = np.tile(np.repeat(np.arange(len(GRID)), MODELS + TARGETS), len(sets))
    found = {
        method: np.array(
            [
                search(one, method, recipe, model)
                for one in sets
                for recipe in range(len(GRID))
                for model in range(MODELS + TARGETS)
            ]
        )
        for method in METHODS
    }
    base = found[next(iter(METHODS))] == true
    rows = []
    for method, guess in found.items():
        shares = [
            np.mean([_field(GRID[a], name) == _field(GRID[b], name) for a, b in zip(guess, true, strict=True)])
            for name in ("augment", "label_smoothing", "epochs", "learning_rate")
        ]
        gain = (guess == true).astype(float) - base
        by_recipe = np.array([gain[true == recipe].mean() for recipe in range(len(GRID))])
        error = by_recipe.std(ddof=1) / np.sqrt(len(by_recipe))
        rows.append(
            f"| {method} | {100 * (guess == true).mean():.1f} | {100 * gain.mean():+.1f} ± {100 * error:.1f} | "
            + " | ".join(f"{100 * share:.1f}" for share in shares)
            + " |"
        )
    seconds = sum(
        float(load_npz(margins_path(out, seed, kind))["seconds"]) for seed in seeds for kind in ("fixed", "random")
    )
    about = (
        f"{PUBLIC + PRIVATE:,} photographs at {SIDE}x{SIDE}, {PUBLIC} of them public, `cnn` of width 16; {len(GRID)} "
        "recipes (12 or 24 epochs, learning rate .03 or .1, label smoothing 0 or .1; no augmentation, flips, crops or "
        f"both), {MODELS} models of each in a search. For each recipe and draw of photographs there are "
        f"{MODELS + TARGETS} targets, which are models of this recipe trained on the public members ({len(seeds)} "
        f"{'draw' if len(seeds) == 1 else 'draws'}, {len(true)} searches by each method). Percentage of searches that "
        "find the recipe or the value of a field; the gain is over the first row, with its standard error over recipes."
    )
    made = (
        f"Seeds: {', '.join(map(str, seeds))}. Trained in {seconds:,.0f} s on {processor()}, shared with other work; "
        f"commit {commit()}. Made by `python -m benchmarks.hidden_recipes`."
    )
    head = (
        "| distance | recipe | gain | augmentation | smoothing | epochs | learning rate |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    )
    return "\n".join(["# How often each distance finds a hidden recipe", "", about, "", *head, *rows, "", made]) + "\n"


def _field(recipe: Recipe, name: str) -> str:
    return str(getattr(recipe, name))


def main() -> None:
    """Parses the command line, and trains or reports."""
    sets = [(seed, kind) for seed in SEEDS for kind in ("fixed", "random")]
    train_or_report(__doc__ or "", OUT, RESULTS, sets, margins_path=margins_path, train=train, report=report)


if __name__ == "__main__":
    main()
