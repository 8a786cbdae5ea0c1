"""Trains one job's share of a run's models, while other jobs may work in the same run directory."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from jaxmia.errors import InputError
from jaxmia.runs.claims import HEARTBEAT_SECONDS, Claims
from jaxmia.runs.store import ALL_DIVERGED, ScoreStore
from jaxmia.training.checkpoint import Checkpoints
from jaxmia.training.chunk import ShadowTrainer, chunks_of, train_each

logger = logging.getLogger(__name__)


_PATIENCE = 4 * HEARTBEAT_SECONDS
"""Seconds without a heartbeat after which another machine's claim is considered dead."""
_MANY_DIVERGED = 4
"""Number of diverged models, with no other model stored, after which the rest is expected to diverge too."""


@dataclass(frozen=True)
class Job:
    """Trains the missing models that no other job is training.

    Attributes:
        shadows: Trains and queries chunks.
        store: Store of finished chunks.
        checkpoints: Checkpoints of chunks in training.
        claims: Claims of all jobs on models.
        patience: Seconds to watch the remaining claims of other machines at the end.
    """

    shadows: ShadowTrainer
    store: ScoreStore
    checkpoints: Checkpoints
    claims: Claims
    patience: float = _PATIENCE

    def run(self, missing: Sequence[int], width: int) -> None:
        """Trains the missing models, at most `width` at once.

        Models with checkpoints are finished first. Models claimed by other jobs come last: by then they are stored, or
        their jobs have died, or they are left to them.

        Raises:
            InputError: A checkpoint was made with another configuration, the run directory cannot be written to, or all
                models diverge.
            Interrupted: A signal was received; the progress so far is saved.
        """
        later = self._make(self._parts(missing, width))
        if later:
            logger.info(f"shadows: {self._who(later)}; watching for {self.patience:.0f} s whether their jobs are alive")
            self.claims.watch(self.patience)
            later = self._make(later)
        if later:
            logger.info(f"shadows: {self._who(later)}; left to them")

    def _make(self, parts: Sequence[list[int]]) -> list[list[int]]:
        """Trains those of the chunks that no other job has claimed, and returns the others."""
        held = []

        def take(models: list[int]) -> None:
            if not self._take(models):
                held.append(models)

        train_each(parts, take, self.shadows.ensemble.plan)
        return held

    def _parts(self, missing: Sequence[int], width: int) -> list[list[int]]:
        elsewhere = {model for claim in self.claims.others() for model in claim.models}
        resumable = self.checkpoints.resumable([model for model in missing if model not in elsewhere])
        return chunks_of(missing, width, resumable)

    def _take(self, models: Sequence[int]) -> bool:
        """Trains those of the models that no other job has claimed; returns whether none is left."""
        # Claims are read first: a job gives its claim up once its models are stored.
        elsewhere = {model for claim in self.claims.others() for model in claim.models}
        present = self.store.models() | self.store.diverged()
        absent = [model for model in models if model not in present]
        free = [model for model in absent if model not in elsewhere]
        if free:
            with self.claims.acquire(free) as won:
                if not won:
                    return False
                self.store.write(self.shadows.train_chunk(free, self.checkpoints))
            self.checkpoints.forget(self.store.models() | self.store.diverged())
            self._refuse_divergence()
        return len(free) == len(absent)

    def _refuse_divergence(self) -> None:
        """Raises InputError once several models diverged and none did not."""
        if len(self.store.diverged()) >= _MANY_DIVERGED and not self.store.models():
            raise InputError(f"{self.store.folder}: {ALL_DIVERGED}")

    def _who(self, parts: Sequence[Sequence[int]]) -> str:
        wanted = {model for part in parts for model in part}
        busy = [
            f"{claim.models[0]}-{claim.models[-1]} by process {claim.pid} on {claim.host}"
            for claim in self.claims.others()
            if wanted & set(claim.models)
        ]
        return "models " + (", ".join(busy) or "of an unreadable claim") + " are being trained"
