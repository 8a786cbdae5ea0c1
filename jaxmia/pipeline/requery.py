"""Queries shadow models with kept weights again, without training: in other views or on other samples."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmia.config import ChallengeConfig, load_config
from jaxmia.data.kinds import IMAGES, as_floats, kind_of
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.pipeline.stages import Pipeline
from jaxmia.provenance import digest
from jaxmia.runs.claims import Claims
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.signals import Interrupted, stop_requests
from jaxmia.runs.store import Chunk, Entry, ScoreStore, describe_difference, read_chunk

if TYPE_CHECKING:
    from jaxmia.training.chunk import ShadowTrainer
    from jaxmia.training.weights import Weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Requery:
    """A new query of trained models.

    Attributes:
        pipeline: Configuration and run directory of the new query.
        source: Directory of the run that trained the models and kept their weights; it may be the same.
    """

    pipeline: Pipeline
    source: Path

    def waiting(self) -> list[Entry]:
        """Chunks that have not been queried with this configuration yet; nothing is written.

        Raises:
            InputError: A chunk differs in more than its query, or its weights were not kept; or `source` is another
                run that has no chunks or whose samples are no longer available.
        """
        store = ScoreStore(RunDir(self.source).shadows)
        # Chunks written by other programs have no cache key and are never queried again.
        entries = [entry for entry in store.index() if "cache_key" in entry.metadata]
        if self._elsewhere and not entries:
            raise InputError(f"{store.folder}: contains no trained shadow models (*.npz) to query again")
        there = {entry.models: entry.metadata for entry in ScoreStore(RunDir(self.pipeline.out).shadows).index()}
        waiting = [
            entry
            for entry in entries
            if describe_difference(there.get(entry.models, {}), {"cache_key": self._cache_key_of(entry)})
        ]
        for entry in waiting:
            self._refuse_misfit(entry)
        return waiting

    def run(self, waiting: Sequence[Entry]) -> None:
        """Queries the models of these chunks and stores the results.

        Raises:
            InputError: Weights are damaged or belong to other models or to another network.
            Interrupted: A signal was received; finished chunks are stored, and the same command resumes with the rest.
        """
        if not waiting:
            return
        from jaxmia.training.weights import Weights

        pipeline = self.pipeline
        section, wanted = pipeline.config.ensemble, pipeline.config.shadow.count
        plan = pipeline.setup.plan(section, wanted)
        count = sum(len(entry.models) for entry in waiting)
        logger.info(f"shadows: querying {count} again without training ({plan})")
        weights, store = Weights(RunDir(self.source).weights), ScoreStore(RunDir(pipeline.out).shadows)
        claims = Claims(RunDir(pipeline.out).claims)
        with stop_requests() as stop_signal, pipeline.progress_bar("shadows") as on_progress:
            shadows = replace(pipeline.setup.shadow_trainer(plan), on_progress=on_progress, stop_signal=stop_signal)
            for entry in waiting:
                # Other processes would get the same results; the claim only shows that this one is running.
                with claims.acquire(entry.models):
                    store.write(self._query_chunk(shadows, weights, entry, plan.width))

    @property
    def _elsewhere(self) -> bool:
        return self.source.resolve() != self.pipeline.out.resolve()

    @cached_property
    def _cache_key(self) -> dict[str, Any]:
        return self.pipeline.setup.cache_key()

    def _cache_key_of(self, entry: Entry) -> dict[str, Any]:
        """Cache key that a chunk has once it is queried with this configuration."""
        before = entry.metadata["cache_key"]
        trained_on = before.get("trained_on", before.get("pool"))
        return {
            **{name: value for name, value in self._cache_key.items() if name != "told"},
            **({"told": before["told"]} if "told" in before else {}),
            **({"trained_on": trained_on} if trained_on != self._cache_key["pool"] else {}),
        }

    def _refuse_misfit(self, entry: Entry) -> None:
        # Which memberships were fixed in training is stored, and matched sample by sample.
        free = {"views", "pool", "told"} if self._elsewhere else {"views"}
        theirs, ours = (
            {"cache_key": {name: value for name, value in cache_key.items() if name not in free}}
            for cache_key in (entry.metadata["cache_key"], self._cache_key)
        )
        difference = describe_difference(theirs, ours)
        if difference:
            raise InputError(
                f"{entry.path}: was created with another configuration: {difference}; only the views"
                f"{' and the samples' if self._elsewhere else ''} of trained models can be changed; use another --out "
                f"or remove the folder {entry.path.parent}"
            )
        if not isinstance(entry.metadata.get("weights"), str):
            raise InputError(
                f"{entry.path}: was queried in other views or on other samples, and its models cannot be queried "
                "again: their weights were not kept (ensemble.keep_weights); use another --out"
            )
        if entry.metadata["cache_key"].get("pool") != self._cache_key["pool"]:
            self._refuse_samples(entry)

    def _refuse_samples(self, entry: Entry) -> None:
        scaling, trained = self.pipeline.config.challenge.scaling, self._trained_challenge.scaling
        if scaling != trained:
            raise InputError(
                f"challenge.scaling: {scaling}, but the models of {entry.path} were trained with {trained}; use that"
            )
        before, now = (pool.images_to("query") for pool in (self._trained_pool, self.pipeline.pool))
        if self._trained_pool.digest() != entry.metadata["cache_key"].get("pool"):
            raise InputError(
                f"{RunDir(self.source).config}: challenge: its files contain other samples than those that the models "
                f"of {entry.path} were trained on; without them the membership of samples is unknown"
            )
        if before.shape[1:] != now.shape[1:]:
            kind = kind_of(before)
            raise InputError(
                f"challenge: its {kind.name} are {list(now.shape[1:])} {kind.axes}, those that the models of "
                f"{entry.path} were trained on {list(before.shape[1:])}"
            )

    def _query_chunk(self, shadows: "ShadowTrainer", weights: "Weights", entry: Entry, width: int) -> Chunk:
        from jaxmia.training.chunk import accuracy, split
        from jaxmia.training.weights import state_of

        def leave() -> None:
            number = shadows.stop_signal()
            if number is not None:
                raise Interrupted(number)

        started = time.perf_counter()
        before = read_chunk(entry.path)
        mask, free = self._matched(before, entry.metadata["cache_key"].get("pool"))
        arrays, source = weights.read(entry.models, entry.metadata["weights"]), str(weights.path(entry.models))
        answers = []
        for part in split(entry.models, width):
            padded_models = shadows.ensemble.plan.padded(part)
            state = state_of(arrays, entry.models, padded_models, shadows.ensemble.init, source)
            answers.append([answer[: len(part)] for answer in shadows.query(padded_models, state, leave)])
        phi, correct = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return replace(
            before,
            mask=mask,
            phi=phi,
            accuracy=accuracy(correct, ~mask),
            accuracy_in=accuracy(correct, mask),
            free=free,
            metadata={
                **before.metadata,
                "cache_key": self._cache_key_of(entry),
                "query_seconds": time.perf_counter() - started,
            },
        )

    def _matched(self, before: Chunk, pool: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Masks `[model, sample]` of the current samples, and whether each is free.

        Where the pool is another one, its samples are matched with those of the training by contents. A sample
        is fixed if that of the training was, with the membership that it has now.
        """
        membership, mask = self.pipeline.pool.membership, before.mask
        same = pool == self._cache_key["pool"]
        if not same:
            mask = np.stack([mask[:, of].any(1) for of in self._positions], axis=1)
        if before.free is None:
            return mask, None
        member, nonmember = ~before.free & before.mask[0], ~before.free & ~before.mask[0]
        if not same:
            member = np.array([member[of].any() for of in self._positions])
            nonmember = np.array([len(of) > 0 and nonmember[of].all() for of in self._positions])
        return mask, ~np.where(membership == 1, member, nonmember & (membership == 0))

    @cached_property
    def _positions(self) -> list[list[int]]:
        """Positions of each current sample in the pool that the models were trained with."""
        found: dict[str, list[int]] = {}
        for position, key in enumerate(_keys(self._trained_pool)):
            found.setdefault(key, []).append(position)
        return [found.get(key, []) for key in _keys(self.pipeline.pool)]

    @cached_property
    def _trained_pool(self) -> Pool:
        from bridge.open import open_pool

        return open_pool(self._trained_challenge)

    @cached_property
    def _trained_challenge(self) -> ChallengeConfig:
        return load_config(RunDir(self.source).config).challenge


def _keys(pool: Pool) -> Iterator[str]:
    """Yields a digest of each sample; that of an image does not depend on its dtype."""
    samples = pool.images_to("query")
    for sample in as_floats(samples) if kind_of(samples) is IMAGES else samples:
        yield digest(sample)
