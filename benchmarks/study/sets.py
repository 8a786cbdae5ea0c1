"""The margins of a study of what is known of a target: regimes, their targets and their shadows."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from benchmarks.make_challenge import make_pool
from jaxmia.config import Augment, EnsembleConfig, Recipe
from jaxmia.data.masks import Masks
from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.views import View, query_views
from jaxmia.files import load_npz, save_npz
from jaxmia.training.chunk import accuracy
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.loop import Training
from jaxmia.training.query import query
from jaxmia.training.setup import shadow_setup

logger = logging.getLogger(__name__)

SIDE, STORED = 12, 28
"""Pixels of the images that models see, and of those in the pool."""

HALF = 1200
"""Public samples, and private ones."""

QUERY = 480
"""Images in a query step."""

CHUNK = 16
"""Shadows trained together; larger numbers of shadows take more chunks."""

SHADOWS = 64
RANDOM_SHADOWS = 128
"""Shadows with random masks; beyond `SHADOWS` only the published attacks use them."""

KNOWN = 0.9
"""Share of the known memberships that is fixed in the comparison with random masks."""

CURVE = (0.25, 0.5, 0.75, 1.0)
"""Further shares."""

OWN, NEAR = 8, 8
"""Targets of the shadows' own recipe, and of recipes near it, one each."""

FIRST_TARGET = 1000
"""Number of the first target; masks and weights belong to the number."""

_COMMON = Recipe(architecture="cnn", width=16, batch_size=64, precision="float32")
_MOVED, _MIRRORED = Augment(crop=1, flip=True), Augment(flip=True)


@dataclass(frozen=True)
class Regime:
    """A recipe and the seed of its photographs; masks and weights of shadows, and targets, have seeds of their own."""

    name: str
    seed: int
    recipe: Recipe

    @property
    def views(self) -> tuple[View, ...]:
        """Views in which every model is queried, identity and mirror image first."""
        return query_views(
            ("identity", "hflip"), 1 if self.recipe.augment.crop else 0, self.recipe.augment, (SIDE, SIDE)
        )

    @property
    def near(self) -> list[Recipe]:
        """A recipe near the shadows' for each of some targets, drawn by the seed."""
        rng = np.random.default_rng(self.seed)
        recipes = []
        for longer, faster, more in rng.uniform(-1, 1, (NEAR, 3)):
            recipe = self.recipe
            changed = {
                "epochs": round(recipe.epochs * 1.25**longer),
                "learning_rate": recipe.learning_rate * 1.4**faster,
                "weight_decay": recipe.weight_decay * 2**more,
            }
            recipes.append(recipe.model_copy(update=changed))
        return recipes


REGIMES = tuple(
    Regime(name, seed, _COMMON.model_copy(update=fields))
    for name, seed, fields in (
        ("little leakage", 5201, {"epochs": 9, "learning_rate": 0.08, "augment": _MOVED}),
        ("augmented", 5202, {"epochs": 30, "learning_rate": 0.07, "weight_decay": 1e-3, "augment": _MOVED}),
        (
            "smoothed",
            5203,
            {"epochs": 20, "learning_rate": 0.06, "label_smoothing": 0.08, "augment": Augment(flip=True)},
        ),
        ("overfitted", 5204, {"epochs": 34, "learning_rate": 0.08, "weight_decay": 2e-4}),
    )
)


@dataclass(frozen=True)
class Part:
    """Models that are trained together and kept in one file.

    Attributes:
        regime: Regime of the models.
        name: Part of the file's name.
        known: Share of the public half whose membership is fixed in their masks.
        models: Numbers of the models.
        recipes: Recipe of each model.
    """

    regime: Regime
    name: str
    known: float
    models: list[int]
    recipes: list[Recipe]

    def path(self, out: Path) -> Path:
        """File of the margins."""
        return out / f"{self.regime.name.replace(' ', '-')}-{self.name}-{self.models[0]}.npz"


def shadows(regime: Regime, known: float, models: int = SHADOWS) -> list[Part]:
    """The first `models` shadows, with the memberships of a share of the public half fixed."""
    return [
        Part(regime, f"known-{known:g}", known, list(range(first, first + CHUNK)), [regime.recipe] * CHUNK)
        for first in range(0, models, CHUNK)
    ]


def targets(regime: Regime) -> Part:
    """Targets of the shadows' own recipe, then targets of recipes near it.

    A target is trained on the public members and on a random half of the private samples.
    """
    models = list(range(FIRST_TARGET, FIRST_TARGET + OWN + NEAR))
    return Part(regime, "targets", 1.0, models, [regime.recipe] * OWN + regime.near)


def parts() -> Iterator[Part]:
    """Everything that is trained, what is needed most first."""

    def chunk(index: int, *shares: float) -> Iterator[Part]:
        return (shadows(regime, share, RANDOM_SHADOWS)[index] for regime in REGIMES for share in shares)

    for regime in REGIMES:
        yield from (targets(regime), shadows(regime, 0)[0], shadows(regime, KNOWN)[0])
    yield from chunk(1, 0, KNOWN)
    yield from chunk(0, *CURVE)
    for index in range(2, SHADOWS // CHUNK):
        yield from chunk(index, 0, KNOWN)
    for index in range(SHADOWS // CHUNK, RANDOM_SHADOWS // CHUNK):
        yield from chunk(index, 0)


@dataclass(frozen=True)
class Maker:
    """Trains parts and keeps their margins.

    Attributes:
        images: npz of photographs, as `benchmarks.make_challenge` reads it.
        out: Folder of the margins.
        regimes: Regimes whose parts are trained.
    """

    images: Path
    out: Path
    regimes: tuple[Regime, ...] = REGIMES

    @cached_property
    def ensembles(self) -> dict[str, tuple[Pool, Ensemble]]:
        """The pool of each regime, and the program that trains all of its models, by its name."""
        found = {}
        for regime in self.regimes:
            pool, _ = make_pool(self.images, HALF, HALF, STORED, regime.seed)
            seen, classes = Preprocessing(SIDE, (0.47,), (0.25,)), int(pool.labels.max()) + 1
            setup = shadow_setup(pool, regime.recipe, seen, classes, views=regime.views, seed=regime.seed)
            plan = setup.plan(EnsembleConfig(width=CHUNK, conv="native"), CHUNK)
            found[regime.name] = pool, setup.ensemble(plan)
        return found

    def train(self, part: Part) -> None:
        """Trains the models of a part, unless its file is there, and queries them."""
        path = part.path(self.out)
        if path.exists():
            return
        pool, ensemble = self.ensembles[part.regime.name]
        masks = Masks.knowing(part.regime.seed, pool.membership, part.known)
        clock = [time.perf_counter()]
        training = Training(ensemble, masks, part.models, part.recipes)
        training.run()
        jax.block_until_ready(training.state)
        clock.append(time.perf_counter())
        phi, correct = query(ensemble, training.state, part.regime.views, QUERY)
        clock.append(time.perf_counter())
        logger.info(f"{path.stem}: {len(part.models)} models in {clock[2] - clock[0]:.0f} s")
        mask = masks(part.models)
        save_npz(
            path,
            {
                "phi": phi,
                "mask": mask,
                "accuracy": np.stack([accuracy(correct, mask), accuracy(correct, ~mask)], 1),
                "labels": pool.labels,
                "membership": pool.membership,
                "seconds": np.diff(clock),
            },
        )


def read(out: Path, wanted: list[Part]) -> dict[str, np.ndarray]:
    """The margins of parts, models one after another."""
    found = [load_npz(part.path(out)) for part in wanted]
    joined = {name: np.concatenate([arrays[name] for arrays in found]) for name in ("phi", "mask", "accuracy")}
    return {**joined, **{name: found[0][name] for name in ("labels", "membership")}}
