# pyright: strict
"""Membership inference in a few lines of Python: train shadows, attack a target.

Example:
    pool = load_challenge("pub.pt", "priv.pt")
    target = load_target("model.pt", "resnet18", mean=mean, std=std)
    shadows = train_shadows(pool, Recipe(count=64), target.preprocessing, target.classes)
    result = attack(pool, target.query, shadows)
    result.submit("submission.csv")
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from jaxmia.attacks import Attack, check_attack
from jaxmia.attacks.catalogue import AUTO, named_attack, standard_attacks
from jaxmia.config import MAX_SEED, AttackConfig, EnsembleConfig, QueryConfig, QueryView, Recipe
from jaxmia.data.kinds import kind_of
from jaxmia.data.masks import draw_folds, join_folds
from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError
from jaxmia.evaluation.epsilon import EpsilonBound
from jaxmia.evaluation.metrics import FPRS, Figures, figures
from jaxmia.evaluation.selection import Selection, check_enough, check_names
from jaxmia.files import save_npz
from jaxmia.leaderboard.submission import to_unit_interval, write_submission
from jaxmia.pipeline.models import refuse_other_run
from jaxmia.pipeline.scoring import Scored, score_matrices
from jaxmia.pipeline.summary import sample_table
from jaxmia.runs.matrices import join_matrices
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.progress import Progress
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import Chunk, ScoreStore
from jaxmia.training.logits import check_target, checked_logits
from jaxmia.training.shadows import TrainedShadows
from jaxmia.validation import check_instance, check_integer, parse_as

if TYPE_CHECKING:
    from jaxmia.models import TrainableNetwork

logger = logging.getLogger(__name__)

_SAVED = "saved"
"""Mark in the cache key of shadow models that were saved from Python."""

_QUERY_BATCH = 512
_MAX_CLASSES = 2**31 - 1  # labels are int32

Value = TypeVar("Value")


@dataclass(frozen=True)
class AttackResult:
    """Membership scores of the samples of a pool.

    Attributes:
        pool: The pool that was scored.
        scores: Membership scores, float64 `[sample]`; higher means member. NaN for samples whose membership was fixed
            in all shadow models.
        attack: Name of the attack.
        selection: How `auto` selected the attack; None if the attack was given.
        fpr: False positive rate at which the attack maximises the true positive rate.
    """

    pool: Pool
    scores: NDArray[np.float64] = field(repr=False)
    attack: str
    selection: Selection | None = field(repr=False)
    fpr: float
    _scored: Scored = field(repr=False)
    _shadows: Chunk = field(repr=False)
    _target: Mapping[str, NDArray[Any]] = field(repr=False)

    @property
    def figures(self) -> Figures:
        """AUC and TPR on the public samples that were scored, with 95 % confidence intervals.

        TPRs are at 5 %, 1 %, 0.1 % and `fpr`.

        Raises:
            InputError: No public members or no public non-members were scored.
        """
        public = self.pool.public & ~np.isnan(self.scores)
        fprs = tuple(sorted({*FPRS, self.fpr}, reverse=True))
        return figures(self.scores[public], self.pool.membership[public] == 1, fprs)

    @property
    def epsilon(self) -> EpsilonBound:
        """Lower bound on the epsilon of the target's training, or the reason why there is none.

        It holds if a fair coin decided for each scored public sample whether the target was trained on it, and if the
        scores do not depend on these memberships, as they would if the recipe was selected by them.
        """
        return self._scored.epsilon

    @property
    def samples(self) -> dict[str, NDArray[Any]]:
        """How vulnerable each sample is: columns `[sample]` by name, as in `samples.csv`.

        `id`, `label`, `membership` (-1 if unknown), `fixed` (whether the sample has no score), `score`, `target` (the
        target's logit margin in nats), number, mean and standard deviation of the margins of shadows trained on the
        sample (`in_count`, `in_mean`, `in_std`) and of the others (`out_...`), and `gap`, the distance between these,
        which is wide where a sample leaks. Of samples that are not scored these are NaN.
        """
        fits = self._scored.for_everyone(self._scored.fits)
        return sample_table(self.pool, self.scores, fits)

    def save(self, out: Path | str) -> RunMetrics:
        """Writes a run directory, for commands such as `jaxmia report`, `evaluate` and `fuse`.

        It has the margins, and what `jaxmia score` writes: `scores.npz` and `samples.csv`, with the scores of the other
        attacks too, `metrics.json`, and `submission.csv` if there are private samples. What was saved there before is
        replaced.

        Returns:
            Contents of `metrics.json`.

        Raises:
            InputError: The directory has shadow models that were not saved from Python, or cannot be written.
        """
        run = RunDir(Path(out))
        refuse_other_run(run.path, _SAVED, "one saved from Python")
        self.pool.save(run.pool)
        save_npz(run.target, self._target)
        ScoreStore(run.shadows).replace(self._shadows)
        return self._scored.write(run.path)

    def report(self, out: Path | str, *, truth: Path | str | None = None, paper: bool = False) -> Path:
        """Writes a run directory as `save` does, with the report `report.html` and `figures/*.png`.

        Args:
            out: Run directory.
            truth: CSV of `id,membership` with the true memberships of private samples, if known.
            paper: Whether to write the figures as PDF too, and tables in LaTeX, `figures/tables.tex`.

        Returns:
            Path of the page.

        Raises:
            InputError: As in `save`, or the file with the truth is invalid.
        """
        from jaxmia.report import write_report

        self.save(out)
        given = None if truth is None else Path(truth)
        return write_report(Path(out), truth=given, images=self.pool.images, paper=paper)

    def submit(self, path: Path | str) -> None:
        """Writes a CSV `id,score` for the private samples, with scores mapped to [0, 1] by rank.

        Raises:
            InputError: The pool has no private samples, or the file cannot be written.
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
    network: "TrainableNetwork | None" = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> TrainedShadows:
    """Trains `recipe.count` shadow models as an ensemble and queries them on the whole pool.

    Each is trained on a random half of the pool, except for public samples with fixed membership (`recipe.known`).

    They equal the models that `jaxmia run` trains with the same recipe, preprocessing, classes and seed. Nothing is
    stored; for runs of hours use `jaxmia run`, which resumes after an interruption. Progress is also logged with
    `logging` at level INFO.

    Args:
        pool: Samples to train on and query, with images.
        recipe: How each shadow model is trained; by default 64 ResNet-18.
        preprocessing: Preprocessing of images; use the target's own (`bridge.target.Target.preprocessing`). By default
            that of `Preprocessing()`.
        classes: Number of classes of the target (`bridge.target.Target.classes`); by default that of the labels. A
            warning is logged if either is not given, since shadows that differ from the target attack it less well.
        symmetries: Symmetries of the image in which each sample is queried; the first is `identity`. `auto` selects
            those of the recipe's augmentation, and only the identity for inputs that are not images.
        shift: If above 0, each view is also queried shifted by this many pixels in each of the eight directions. `auto`
            shifts automatic views by one pixel if the recipe crops.
        ensemble: How many models are trained at once, and how; by default measured on this device.
        seed: Seed of masks, initial weights, batch order and augmentation.
        network: Network to train in place of the recipe's, such as the target's own in PyTorch
            (`Target.shadow_network(pool.images)`).
        on_progress: Called with the progress after each epoch and each query step.

    Raises:
        InputError: An argument has the wrong type or is out of range, the pool has no images, a symmetry is unknown, a
            recipe or view would rotate images that are not square, a label is out of range, mean or std does not match
            the number of channels, or more devices are requested than exist.

    >>> images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8)
    >>> pool = Pool(images, np.arange(20, dtype=np.int32) % 2, np.arange(20).astype(str), np.full(20, -1, np.int8))
    >>> recipe = Recipe(architecture="mlp", width=4, count=3, epochs=1, batch_size=8)
    >>> together = EnsembleConfig(width=3, conv="unrolled", devices=1)
    >>> shadows = train_shadows(pool, recipe, Preprocessing(), 2, ensemble=together)
    >>> shadows.phi.shape, shadows.mask.shape
    ((3, 1, 20), (3, 20))
    """
    from jaxmia.models import TrainableNetwork
    from jaxmia.training.devices import prepare_devices
    from jaxmia.training.setup import shadow_setup

    check_instance(pool, Pool, "pool")
    recipe, ensemble = _given(recipe, Recipe(), "recipe"), _given(ensemble, EnsembleConfig(), "ensemble")
    seed = check_integer(seed, "seed", 0, MAX_SEED)
    if network is not None:
        check_instance(network, TrainableNetwork, "network")
    prepare_devices()
    if recipe.rounds > 1:
        raise InputError(f"rounds: {recipe.rounds} needs the target's scores between the rounds; use `jaxmia run`")
    samples = pool.images_to("train on")
    query = parse_as(QueryConfig, {"views": symmetries, "shift": shift}, "symmetries and shift")
    preprocessing, classes = _given_or_warn(pool, preprocessing, classes)
    shown = kind_of(samples).query_views(query.views, query.shift, recipe.augment, samples.shape[1:])
    setup = shadow_setup(
        pool,
        recipe,
        preprocessing,
        classes,
        views=shown,
        seed=seed,
        network=network,
    )
    trainer = setup.shadow_trainer(setup.plan(ensemble, recipe.count))
    chunks = list(replace(trainer, on_progress=on_progress).train(range(recipe.count)))
    if not any(chunk.model.size for chunk in chunks):
        raise InputError(f"shadows: all {recipe.count} diverged; lower learning_rate ({recipe.learning_rate:g})")
    return TrainedShadows(
        np.concatenate([chunk.phi for chunk in chunks]),
        np.concatenate([chunk.mask for chunk in chunks]),
        setup.views,
        setup.preprocessing,
        free=setup.masks.free,
    )


def _given(value: object, default: Value, name: str) -> Value:
    """Returns an argument after checking that it is of the type of its default; the default in place of None."""
    return default if value is None else check_instance(value, type(default), name)


def _given_or_warn(pool: Pool, preprocessing: Preprocessing | None, classes: int | None) -> tuple[Preprocessing, int]:
    """Preprocessing and number of classes as given; logs a warning where a default may differ from the target's."""
    kind = kind_of(pool.images_to("train on"))
    if preprocessing is None and kind.standard is not None:
        mean, std = kind.standard
        logger.warning(
            f"preprocessing: not given, so {kind.name} are normalised by mean {mean:g} and standard deviation {std:g}; "
            "pass the target's own, such as target.preprocessing or Preprocessing(mean=..., std=...)"
        )
    if classes is None:
        classes = int(pool.labels.max(initial=0)) + 1
        logger.warning(
            f"classes: not given, so {classes} as in the labels; pass the target's: target.classes, or "
            "target.count_classes(pool) where that is None"
        )
    return _given(preprocessing, Preprocessing(), "preprocessing"), check_integer(classes, "classes", 1, _MAX_CLASSES)


def attack(
    pool: Pool,
    target: Callable[[NDArray[np.generic]], NDArray[np.float32]],
    shadows: TrainedShadows,
    name: str | Attack = AUTO,
    *,
    fpr: float = 0.05,
    candidates: Sequence[Attack] = (),
    epsilon_delta: float = 1e-5,
    epsilon_confidence: float = 0.95,
) -> AttackResult:
    """Scores the samples of the pool by comparing the target's logit margins with those of the shadow models.

    Args:
        pool: Pool that the shadow models were trained on, with images.
        target: Function from a batch of pool images `[sample, height, width, channel]` to logits `[sample, class]`. It
            may wrap a model of any framework; `bridge.target.load_target(...).query` is such a function. Images are
            resized first if the shadows' preprocessing resizes.
        shadows: Result of `train_shadows`.
        name: Attack or its name; `auto` selects the attack that is strongest on shadow models as pseudo-targets. It
            does not use the public membership labels.
        fpr: False positive rate at which the attack maximises the true positive rate.
        candidates: Your own attacks that `auto` considers besides the standard ones.
        epsilon_delta: Delta at which `AttackResult.epsilon` bounds the target's epsilon from below.
        epsilon_confidence: Confidence of this bound.

    Raises:
        InputError: An argument has the wrong type, the target cannot be called, the name is unknown, an object given as
            an attack is not one, `fpr` or a value for epsilon is not between 0 and 1, or the shadow models are too few
            for the attack or belong to another pool.

    >>> pool = Pool(
    ...     np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1]), np.array(["a", "b"]), np.array([1, -1], np.int8)
    ... )
    >>> phi = np.array([[[0.5, 1.0]], [[3.0, 1.5]]], np.float32)
    >>> shadows = TrainedShadows(phi, np.array([[False, False], [True, True]]))
    >>> def target(images):
    ...     return np.array([[2.5, 0.0], [0.5, 0.0]], np.float32)
    >>> attack(pool, target, shadows, "margin").scores
    array([ 2.5, -0.5])
    """
    from jaxmia.training.query import query_target

    images = check_instance(pool, Pool, "pool").images_to("query")
    if not len(pool):
        raise InputError("pool: has no samples to query")
    if (samples := check_instance(shadows, TrainedShadows, "shadows").mask.shape[1]) != len(pool):
        raise InputError(f"shadows: were queried on {samples} samples, but the pool has {len(pool)}")
    level = {"fpr": fpr, "epsilon_delta": epsilon_delta, "epsilon_confidence": epsilon_confidence}
    section = parse_as(AttackConfig, level, "attack")
    named, own = _attack_of(name), _own_attacks(candidates)
    seen = shadows.preprocessing.resized(images)
    phi, correct = query_target(target, seen, pool.labels, shadows.views, _QUERY_BATCH)
    chunk = _as_chunk(shadows)
    matrices = join_matrices(pool, phi, chunk)
    if fixed := int((~matrices.free).sum()):
        logger.info(
            f"scores: {fixed} of {pool.public.sum()} known memberships were fixed in all shadow models, so "
            "these samples are not scored; Recipe(known=...) sets their share"
        )
    if named is None and matrices.likeness.unlike:
        logger.warning(matrices.likeness.warning("train the shadows as the target was"))
    scored = score_matrices(matrices, section, named, own)
    return AttackResult(
        pool,
        matrices.for_everyone(scored.score),
        scored.attack.name,
        scored.selection,
        fpr,
        scored,
        chunk,
        {"phi": phi, "correct": correct},
    )


def _as_chunk(shadows: TrainedShadows) -> Chunk:
    """Shadow models as a run directory stores them; their accuracies are not recorded."""
    unknown = np.full(len(shadows.phi), np.nan, np.float32)
    return Chunk(
        model=np.arange(len(shadows.phi)),
        mask=shadows.mask,
        phi=shadows.phi,
        accuracy=unknown,
        accuracy_in=unknown,
        extra={},
        metadata={"cache_key": {_SAVED: True}},
        free=shadows.free,
        fold=shadows.fold,
    )


def _attack_of(name: str | Attack) -> Attack | None:
    """Returns the attack that is given or named; None for `auto`."""
    if isinstance(name, str):
        return None if name == AUTO else named_attack(name)
    return check_attack(name, "name")


def _own_attacks(candidates: Sequence[Attack]) -> list[Attack]:
    if not isinstance(candidates, list | tuple):
        raise InputError(f"candidates: a {type(candidates).__name__} is not a list of attacks, such as [MyAttack()]")
    own = [check_attack(candidate, "candidates") for candidate in candidates]
    check_names([*standard_attacks(), *own])
    return own


def audit(
    pool: Pool,
    target: Callable[[NDArray[np.generic]], NDArray[np.float32]],
    recipe: Recipe | None = None,
    preprocessing: Preprocessing | None = None,
    classes: int | None = None,
    *,
    folds: int = 4,
    name: str | Attack = AUTO,
    fpr: float = 0.05,
    candidates: Sequence[Attack] = (),
    epsilon_delta: float = 1e-5,
    epsilon_confidence: float = 0.95,
    symmetries: tuple[QueryView, ...] = ("auto",),
    shift: int | Literal["auto"] = "auto",
    ensemble: EnsembleConfig | None = None,
    seed: int = 0,
    network: "TrainableNetwork | None" = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> AttackResult:
    """Scores every sample with the memberships of all others known, as `jaxmia audit` does.

    The samples are divided into folds, and `recipe.count` shadow models are trained for each: on all members outside of
    the fold, on no non-member outside of it, and on a random half of the fold itself. A sample is compared with the
    models of its own fold only, and one attack scores all samples. It costs `folds` times as much as `train_shadows`.

    Args:
        pool: Samples with images, each of known membership.
        target: The model under audit, as in `attack`.
        recipe: How each shadow model is trained; best as the target was. Its `known` has no effect.
        preprocessing: Preprocessing of images, as in `train_shadows`; use the target's own.
        classes: Number of classes of the target; by default as many as it returns.
        folds: Number of folds, at least 2.
        name: Attack or its name, as in `attack`.
        fpr: False positive rate at which the attack maximises the true positive rate.
        candidates: Your own attacks that `auto` considers besides the standard ones.
        epsilon_delta: As in `attack`.
        epsilon_confidence: As in `attack`.
        symmetries: As in `train_shadows`.
        shift: As in `train_shadows`.
        ensemble: As in `train_shadows`.
        seed: Seed of folds, masks, initial weights, batch order and augmentation.
        network: Network to train in place of the recipe's, as in `train_shadows`.
        on_progress: Called with the progress of each fold.

    Raises:
        InputError: The target cannot be called or does not return logits, a membership is unknown, there are fewer than
            two folds or more folds than samples, or `train_shadows` or `attack` raises it. Whatever can be checked
            before training is.
    """
    from jaxmia.training.devices import prepare_devices

    check_instance(pool, Pool, "pool")
    check_target(target)
    chosen, own = _attack_of(name) or AUTO, _own_attacks(candidates)
    recipe = _given(recipe, Recipe(), "recipe")
    if chosen == AUTO:
        check_enough(recipe.count)
    level = {"fpr": fpr, "epsilon_delta": epsilon_delta, "epsilon_confidence": epsilon_confidence}
    parse_as(AttackConfig, level, "attack")
    seed = check_integer(seed, "seed", 0, MAX_SEED)
    if not pool.public.all():
        raise InputError(f"pool: the membership of {int((~pool.public).sum())} samples is unknown; an audit needs all")
    folds = check_integer(folds, "folds", 2, len(pool))
    prepare_devices()
    batch = _given(preprocessing, Preprocessing(), "preprocessing").resized(pool.images_to("query")[:_QUERY_BATCH])
    logits = checked_logits(target, int(pool.labels.max()) + 1)(batch)
    preprocessing, classes = _given_or_warn(pool, preprocessing, logits.shape[1] if classes is None else classes)
    informed = recipe.model_copy(update={"known": 1.0})
    fold = draw_folds(seed, len(pool), folds)
    parts = [
        train_shadows(
            pool.hiding(fold == number),
            informed,
            preprocessing,
            classes,
            symmetries=symmetries,
            shift=shift,
            ensemble=ensemble,
            seed=seed,
            network=network,
            on_progress=on_progress,
        )
        for number in range(folds)
    ]
    rows = min(len(part.phi) for part in parts)
    joined = replace(
        parts[0],
        phi=join_folds([part.phi[:rows] for part in parts], fold),
        mask=join_folds([part.mask[:rows] for part in parts], fold),
        fold=fold,
        free=None,
    )
    return attack(pool, target, joined, chosen, candidates=own, **level)
