"""One job's part in training a run's models, beside others on the same folder."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from jax.errors import JaxRuntimeError

from jaxmia.errors import InputError
from jaxmia.runs.claims import HEARTBEAT_SECONDS, Claims
from jaxmia.runs.store import ALL_DIVERGED, ScoreStore
from jaxmia.training.checkpoint import Checkpoints
from jaxmia.training.chunk import ShadowTrainer, split
from jaxmia.training.measure import out_of_memory

logger = logging.getLogger(__name__)


_PATIENCE = 4 * HEARTBEAT_SECONDS
"""Seconds for which another machine's claim must show no sign of life to be taken for dead."""
_HOPELESS = 4
"""Models that diverged, and none that did not: those that are left would, too."""


@dataclass(frozen=True)
class Job:
    """Makes the chunks that are missing and that nobody else is making.

    Attributes:
        shadows: Makes a chunk.
        store: Where it goes.
        checkpoints: Where it is saved on the way.
        claims: Who else makes what.
        patience: Seconds to watch claims of other machines that are in the way at the end.
    """

    shadows: ShadowTrainer
    store: ScoreStore
    checkpoints: Checkpoints
    claims: Claims
    patience: float = _PATIENCE

    def run(self, missing: Sequence[int], width: int) -> None:
        """Makes what is missing, at most `width` models together.

        What has been begun is finished first. What others are making comes last: by then it is there, or they have
        ended, or it is left to them.

        Raises:
            InputError: A checkpoint is of another configuration, the folder cannot be written to, or all models
                diverge.
            Interrupted: The job was told to stop; what was done is saved.
        """
        later = self._make(self._parts(missing, width))
        if later:
            logger.info(f"shadows: {self._who(later)}; looking for {self.patience:.0f} s whether they are alive")
            self.claims.watch(self.patience)
            later = self._make(later)
        if later:
            logger.info(f"shadows: {self._who(later)}; left to them")

    def _make(self, parts: Sequence[list[int]]) -> list[list[int]]:
        """Makes what is free of these chunks; those that others hold.

        Where memory does not suffice for a chunk, all that is left is halved.
        """
        waiting, held = list(parts), []
        while waiting:
            try:
                if not self._take(waiting[0]):
                    held.append(waiting[0])
                waiting.pop(0)
            except (MemoryError, JaxRuntimeError) as error:
                width = len(self.shadows.padded_models(waiting[0])) // 2
                if not out_of_memory(error) or width < len(self.shadows.ensemble.plan.devices):
                    raise
                logger.info(f"shadows: too little memory for {len(waiting[0])} models together; going on with {width}")
                waiting = [part for group in waiting for part in split(group, width)]
        return held

    def _parts(self, missing: Sequence[int], width: int) -> list[list[int]]:
        elsewhere = {model for claim in self.claims.others() for model in claim.models}
        resumable = self.checkpoints.resumable([model for model in missing if model not in elsewhere])
        taken = {model for group in resumable for model in group}
        rest = [model for model in missing if model not in taken]
        return [part for group in [*resumable, rest] for part in split(group, width)]

    def _take(self, models: Sequence[int]) -> bool:
        """Makes those of the models that are free; whether none is left."""
        present = self.store.models() | self.store.diverged()
        absent = [model for model in models if model not in present]
        elsewhere = {model for claim in self.claims.others() for model in claim.models}
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
        """Ends a training that comes to nothing."""
        if len(self.store.diverged()) >= _HOPELESS and not self.store.models():
            raise InputError(f"{self.store.folder}: {ALL_DIVERGED}")

    def _who(self, parts: Sequence[Sequence[int]]) -> str:
        wanted = {model for part in parts for model in part}
        busy = [
            f"{claim.models[0]}-{claim.models[-1]} by process {claim.pid} of {claim.host}"
            for claim in self.claims.others()
            if wanted & set(claim.models)
        ]
        return "models " + (", ".join(busy) or "of an unreadable claim") + " are being trained"
