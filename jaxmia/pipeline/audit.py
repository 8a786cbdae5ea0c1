"""The informed audit: every membership is known, and each sample is scored with the memberships of all others.

The samples are divided into folds. The shadow models of a fold are trained on all members outside it and on no
non-member outside it, as the target was; the memberships of the fold's own samples are drawn at random. The margins on
the folds' own samples are then joined: row `j` of the joined margins takes each sample from model `j` of the sample's
fold, and the joined masks are those of a run that draws every membership. So an audit is scored and reported like any
other run, by one attack and on one scale.
"""

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from jaxmia.config import Config
from jaxmia.data.masks import draw_folds, join_folds, steps_per_epoch
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import auc, false_alarms, paired_difference, tpr_at_fpr
from jaxmia.evaluation.selection import check_count
from jaxmia.files import load_npz
from jaxmia.leaderboard.submission import read_truth
from jaxmia.pipeline.models import open_pipeline, refuse_other_run, train_and_query, write_joined
from jaxmia.pipeline.scoring import score
from jaxmia.pipeline.stages import Pipeline, ProgressBar, no_progress_bar
from jaxmia.runs.metrics import RunMetrics, Uninformed
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import Chunk, ScoreStore

logger = logging.getLogger(__name__)

FOLDS = 4
_QUERY_COST = 1 / 3
"""Cost of querying an image, relative to that of training on it."""


@dataclass(frozen=True)
class Cost:
    """Cost of an audit.

    Attributes:
        models: Total number of shadow models.
        missing: Number of models that are still to be trained.
        seconds: Estimated time on this machine until all are trained and queried; 0 if none is missing.
    """

    models: int
    missing: int
    seconds: float

    def __str__(self) -> str:
        if not self.missing:
            return f"{self.models} shadow models, all of which exist already"
        left = "" if self.missing == self.models else f", {self.missing} of which are still to be trained"
        return f"{self.models} shadow models{left}: about {timedelta(seconds=round(self.seconds))} on this machine"


@dataclass(frozen=True)
class Audit:
    """An informed audit and its directory, which is a run directory too; every stage resumes as that of a run does.

    Attributes:
        config: Configuration; `shadow.count` is the number of models of each fold, and `shadow.known` and
            `shadow.rounds` have no effect.
        out: Directory of the results; the runs of the folds are below `out/folds`.
        folds: Number of folds, at least 2.
        truth: CSV `id,membership` of samples whose membership is not in the challenge's files.
        compare: Whether to attack with as many shadows with random masks as well, in `out/uninformed`.
        progress_bar: Shows progress.
    """

    config: Config
    out: Path
    folds: int = FOLDS
    truth: Path | None = None
    compare: bool = False
    progress_bar: ProgressBar = field(default=no_progress_bar)

    @cached_property
    def pool(self) -> Pool:
        """All samples, each with its membership.

        Raises:
            InputError: A file is invalid, a membership remains unknown, or there are no members or no non-members.
        """
        from bridge.open import open_pool, open_public

        challenge = self.config.challenge
        pool = (open_pool if challenge.private else open_public)(challenge, self._stages.target.classes)
        pool = fill_in(pool, self.truth) if self.truth else pool
        _refuse_unknown(pool)
        if not 2 <= self.folds <= len(pool):
            raise InputError(f"--folds: {self.folds} is not between 2 and {len(pool)}, the number of samples")
        logger.info(f"audit: {len(pool)} samples ({(pool.membership == 1).sum()} members) in {self.folds} folds")
        return pool

    @cached_property
    def runs(self) -> list[Pipeline]:
        """The run of each fold, in which the fold's samples are private and all others public and fixed."""
        fold = self._fold
        config = self._with_known(1.0)
        return [
            self._run(
                self.pool.hiding(fold == number),
                config,
                RunDir(self.out).folds / str(number),
                f"fold {number + 1} of {self.folds}",
            )
            for number in range(self.folds)
        ]

    @cached_property
    def uninformed(self) -> Pipeline:
        """The run without known memberships: as many shadows as a fold has, with random masks."""
        return self._run(self.pool, self._with_known(0.0), RunDir(self.out).uninformed, "uninformed")

    def cost(self) -> Cost:
        """Estimates what the audit costs, from a short measurement of the training speed if models are missing.

        Raises:
            InputError: A directory contains models of another configuration.
        """
        self._refuse_other_audit()
        runs = [*self.runs, *([self.uninformed] if self.compare else [])]
        missing = [len(run.missing_models()) for run in runs]
        images = sum(count * _images_per_model(run) for count, run in zip(missing, runs, strict=True))
        speed = _images_per_second(runs[0]) if images else 1.0
        return Cost(len(runs) * self.config.shadow.count, sum(missing), images / speed)

    def run(self) -> RunMetrics:
        """Trains what is missing, scores every sample and writes the report.

        Returns:
            Contents of `metrics.json`.

        Raises:
            InputError: A file or a field is invalid, or a directory does not match the configuration.
            Interrupted: A signal was received; the progress so far is saved, and the same call resumes from there.
        """
        check_count(self.config.attack, self.config.shadow.count)
        self._refuse_other_audit()
        for run in self.runs:
            train_and_query(run)
        self._join()
        metrics = score(self.out, self.config.attack)
        if self.compare:
            metrics = self._compared(metrics)
        from jaxmia.report import write_report  # imports Matplotlib, which training does without

        write_report(self.out, images=self.pool.images)
        return metrics

    @cached_property
    def _stages(self) -> Pipeline:
        return open_pipeline(self.config, self.out, self.progress_bar)

    @cached_property
    def _fold(self) -> np.ndarray:
        return draw_folds(self.config.seed, len(self.pool), self.folds)

    def _refuse_other_audit(self) -> None:
        refuse_other_run(self.out, "folds", "an audit")
        for entry in ScoreStore(RunDir(self.out).shadows).index():
            if (folds := entry.metadata["cache_key"]["folds"]) != self.folds:
                raise InputError(
                    f"--folds: {self.folds}, but {self.out} is an audit in {folds} folds; use another --out"
                )

    def _with_known(self, known: float) -> Config:
        shadow = self.config.shadow.model_copy(update={"known": known, "rounds": 1})
        return self.config.model_copy(update={"shadow": shadow})

    def _run(self, pool: Pool, config: Config, out: Path, title: str) -> Pipeline:
        return self._stages.attacking(pool, config, out, lambda what: self.progress_bar(f"{title}: {what}"))

    def _join(self) -> None:
        """Writes the joined margins and the other files of a run to the directory of the audit."""
        chunk = join_chunks([ScoreStore(RunDir(run.out).shadows).read() for run in self.runs], self._fold)
        key = self.runs[0].setup.cache_key()
        recipe = {name: value for name, value in key["shadow"].items() if name != "known"}
        key = {**{name: key[name] for name in key if name != "told"}, "shadow": recipe, "folds": self.folds}
        whole = self._stages.attacking(self.pool, self.config, self.out, self.progress_bar)
        write_joined(whole, self.runs[0].out, chunk, key)

    def _compared(self, metrics: RunMetrics) -> RunMetrics:
        out = self.uninformed.out
        train_and_query(self.uninformed)
        other = score(out, self.config.attack)
        assert metrics.audit and other.public
        one, two = (load_npz(RunDir(of).scores)[found.attack] for of, found in ((self.out, metrics), (out, other)))
        members, fpr = self.pool.membership == 1, metrics.fpr
        gain = partial(paired_difference, one, two, members)
        uninformed = Uninformed(
            attack=other.attack,
            figures=other.public,
            auc_gain=gain(auc),
            tpr_gain=(
                gain(lambda scores, members: tpr_at_fpr(scores, members, fpr))
                if false_alarms(fpr, int((~members).sum())) >= 1
                else None
            ),
        )
        metrics = metrics.model_copy(update={"audit": metrics.audit.model_copy(update={"uninformed": uninformed})})
        metrics.write(self.out)
        return metrics


def fill_in(pool: Pool, truth: Path) -> Pool:
    """Returns the pool with the memberships of a CSV `id,membership` filled in where they were unknown.

    Raises:
        InputError: The file is invalid, or contradicts a membership that was known.
    """
    ids, members = read_truth(truth)
    membership_of = dict(zip(ids.tolist(), members.tolist(), strict=True))
    given = np.array([membership_of.get(name, -1) for name in pool.ids.tolist()], np.int8)
    wrong = np.flatnonzero(pool.public & (given >= 0) & (given != pool.membership))
    if len(wrong):
        raise InputError(
            f"{truth}: membership of {str(pool.ids[wrong[0]])!r} is {given[wrong[0]]}, but in the public file "
            f"{pool.membership[wrong[0]]}"
        )
    return Pool(pool.images, pool.labels, pool.ids, np.where(pool.public, pool.membership, given))


def join_chunks(chunks: list[Chunk], fold: np.ndarray) -> Chunk:
    """Joins the shadow models of all folds row by row; a row of which a model diverged is left out.

    Args:
        chunks: The models of each fold.
        fold: Fold of each sample, int `[sample]`.

    Raises:
        InputError: No model number is in every fold.
    """
    trained = [set(chunk.model.tolist()) for chunk in chunks]
    common = sorted(set.intersection(*trained))
    if not common:
        raise InputError("audit: no model is in every fold; too many diverged")
    left_out = set.union(*trained, *(set(chunk.diverged) for chunk in chunks)) - set(common)
    rows = [np.searchsorted(chunk.model, common) for chunk in chunks]

    def each(name: str) -> list[np.ndarray]:
        return [getattr(chunk, name)[own] for chunk, own in zip(chunks, rows, strict=True)]

    return Chunk(
        model=np.array(common),
        mask=join_folds(each("mask"), fold),
        phi=join_folds(each("phi"), fold),
        accuracy=np.mean(each("accuracy"), axis=0),
        accuracy_in=np.mean(each("accuracy_in"), axis=0),
        extra={},
        metadata={},
        diverged=tuple(sorted(left_out)),
        fold=fold,
    )


def _refuse_unknown(pool: Pool) -> None:
    unknown = np.flatnonzero(~pool.public)
    if len(unknown):
        raise InputError(
            f"audit: the membership of {len(unknown)} of {len(pool)} samples is unknown, the first being "
            f"{str(pool.ids[unknown[0]])!r}; an audit needs all of them: leave out challenge.private, or give a CSV "
            "id,membership with --truth"
        )
    members = int((pool.membership == 1).sum())
    if not 0 < members < len(pool):
        raise InputError(f"audit: {members} of {len(pool)} samples are members, expected members and non-members")


def _images_per_model(run: Pipeline) -> float:
    """Number of images that a model is trained on, plus those that it is queried on at their relative cost."""
    recipe, setup = run.config.shadow, run.setup
    members = int(setup.masks([0]).sum())
    trained = recipe.epochs * steps_per_epoch(members, recipe.batch_size) * recipe.batch_size
    return trained + _QUERY_COST * len(setup.views) * len(run.pool)


def _images_per_second(run: Pipeline) -> float:
    from jaxmia.training.measure import StepTimer, images_per_second

    setup = run.setup
    return images_per_second(StepTimer(setup.trainer, setup.plan(run.config.ensemble, run.config.shadow.count)))
