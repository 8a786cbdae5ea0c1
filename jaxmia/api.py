# pyright: strict
"""Membership inference in a few lines of Python: train shadows, attack a target.

Example:
    pool = load_challenge("pub.pt", "priv.pt")
    target = load_target("model.pt", "resnet18", mean=mean, std=std)
    shadows = train_shadows(pool, Shadow(count=64), mean=mean, std=std)
    result = attack(pool, target.query, shadows)
    result.submit("submission.csv")
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jaxmia.attacks import Attack, Evidence, check_attack, score_all
from jaxmia.attacks.catalogue import AUTO, named_attack
from jaxmia.config import AttackConfig, EnsembleConfig, QueryView, Recipe, parse_as
from jaxmia.data.augment import View, query_views
from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import Figures, figures
from jaxmia.evaluation.selection import Selection, select_attack
from jaxmia.leaderboard.submission import to_unit_interval, write_submission
from jaxmia.runs.progress import Progress

_QUERY_BATCH = 512


@dataclass(frozen=True)
class TrainedShadows:
    """What shadow models say of every sample.

    Attributes:
        phi: Logit margins in nats, float32 `[model, view, sample]`.
        mask: Who was trained on whom, bool `[model, sample]`.
        views: How each image was shown.
        preprocessing: What they saw of an image; the target is shown images of the same size.
    """

    phi: NDArray[np.float32]
    mask: NDArray[np.bool_]
    views: tuple[View, ...] = (View(),)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


@dataclass(frozen=True)
class AttackResult:
    """The scores of a pool.

    Attributes:
        pool: Whose samples.
        scores: float64 `[sample]`; higher means member.
        attack: Name of the attack.
        selection: How it was chosen among all; None where it was named.
    """

    pool: Pool
    scores: NDArray[np.float64]
    attack: str
    selection: Selection | None

    @property
    def figures(self) -> Figures:
        """AUC and TPR at 5 %, 1 % and 0.1 % FPR on the public samples, with 95 % intervals.

        Raises:
            InputError: There are no public members or no public non-members.
        """
        public = self.pool.public
        return figures(self.scores[public], self.pool.membership[public] == 1)

    def submit(self, path: Path | str) -> None:
        """Writes a CSV of `id,score` of the private samples, scores in [0, 1] by rank.

        Raises:
            InputError: There are no private samples, or the file cannot be written.
        """
        private = ~self.pool.public
        if not private.any():
            raise InputError("pool: has no private samples to submit (membership -1)")
        write_submission(Path(path), self.pool.ids[private].tolist(), to_unit_interval(self.scores[private]))


def train_shadows(
    pool: Pool,
    recipe: Recipe | None = None,
    preprocessing: Preprocessing | None = None,
    classes: int | None = None,
    *,
    symmetries: tuple[QueryView, ...] = ("auto",),
    shift: int | Literal["auto"] = "auto",
    ensemble: EnsembleConfig | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> TrainedShadows:
    """Trains `recipe.count` shadow models together, each on a random half of the pool, and queries them on all of it.

    They are the models that `jaxmia run` trains by the same recipe, preprocessing, classes and seed. Nothing is stored;
    for runs of hours, `jaxmia run` goes on after an interruption. What happens is logged by `logging` at level INFO.

    Args:
        pool: With images.
        recipe: How each shadow is trained; by default 64 ResNet-18.
        preprocessing: Pixels to what a network sees, the target's own (`bridge.target.Target.preprocessing`).
        classes: Number of classes of the target; by default as many as the labels have.
        symmetries: How each image is shown in queries; the first is `identity`. `auto` takes the symmetries of the
            recipe's augmentation, and none for what is no image.
        shift: Where above 0, each view also moved by so many pixels in the eight directions; `auto` moves automatic
            views by one where the recipe crops.
        ensemble: How many are trained together and how; by default measured on this device.
        seed: Seed of masks, initial weights, orders and augmentation.
        on_progress: Told after each epoch and each step of a query.

    Raises:
        InputError: The pool has no images, they are not square but would be turned, a label is no class, mean or std do
            not fit the channels, or more devices are asked for than there are.
    """
    from jaxmia.training.devices import prepare_devices
    from jaxmia.training.setup import shadow_setup

    prepare_devices()
    recipe = recipe or Recipe()
    if pool.images is None:
        raise InputError("pool: holds no images to train on")
    height, width = pool.images.shape[1:3]
    shown = query_views(symmetries, shift, recipe.augment, (height, width))
    setup = shadow_setup(
        pool,
        recipe,
        preprocessing or Preprocessing(),
        classes or int(pool.labels.max(initial=0)) + 1,
        views=shown,
        seed=seed,
    )
    trainer = setup.shadow_trainer(setup.plan(ensemble or EnsembleConfig(), recipe.count))
    chunks = list(replace(trainer, on_progress=on_progress).train(range(recipe.count)))
    return TrainedShadows(
        np.concatenate([chunk.phi for chunk in chunks]),
        np.concatenate([chunk.mask for chunk in chunks]),
        setup.views,
        setup.preprocessing,
    )


def attack(
    pool: Pool,
    target: Callable[[NDArray[np.generic]], NDArray[np.float32]],
    shadows: TrainedShadows,
    name: str | Attack = AUTO,
    *,
    fpr: float = 0.05,
    candidates: Sequence[Attack] = (),
) -> AttackResult:
    """Scores every sample of the pool by how the target speaks of it, against how the shadows do.

    Args:
        pool: That the shadows were trained on.
        target: Logits `[sample, class]` of a batch of pool images `[sample, height, width, channel]`, resized where the
            shadows' preprocessing says so: any model, in any framework; `bridge.target.load_target(...).query` is one.
        shadows: From `train_shadows`.
        name: An attack or its name; `auto` chooses the one that is strongest when shadows play the target. The public
            labels have no part in it.
        fpr: False positive rate at which it is to be strong.
        candidates: Attacks of your own that `auto` chooses from beside the standard ones.

    Raises:
        InputError: The name is unknown, an attack of your own is none, `fpr` is not between 0 and 1, the shadows are
            too few for the attack, or of another pool.
    """
    from jaxmia.training.query import query_target

    if pool.images is None:
        raise InputError("pool: holds no images to query")
    section = parse_as(AttackConfig, {"fpr": fpr}, "attack")
    named = None if name == AUTO else named_attack(name) if isinstance(name, str) else check_attack(name, "name")
    own = [check_attack(candidate, "candidates") for candidate in candidates]
    seen = shadows.preprocessing.resized(pool.images)
    phi, _ = query_target(target, seen, pool.labels, shadows.views, _QUERY_BATCH)
    evidence = Evidence(phi, shadows.phi, shadows.mask, pool.labels)
    if named:
        return AttackResult(pool, score_all(named, evidence), named.name, None)
    selection = select_attack(evidence, section, own)
    return AttackResult(pool, score_all(selection.chosen, evidence), selection.chosen.name, selection)
