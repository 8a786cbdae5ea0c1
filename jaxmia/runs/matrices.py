"""What a run directory holds once its models are trained and queried."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmia.attacks import Evidence
from jaxmia.data.masks import Masks, draw_folds
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError, printable
from jaxmia.files import load_npz
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import LARGEST_MARGIN, Chunk, ScoreStore, recorded_number

ROUND = "round"
"""Name of the array `[model]` that says in which round a model was trained, where there are two."""


@dataclass(frozen=True)
class Matrices:
    """What a run directory holds once its models are trained and queried.

    A sample whose membership every shadow took as told (`shadow.known`) has no IN or no OUT models. It is left out
    here, so that attacks, figures and promises are about free samples only.

    Attributes:
        pool: The free samples, without images.
        evidence: The target's and the shadows' margins on free samples.
        shadows: All chunks as one, on free samples.
        everyone: All samples, without images.
        free: Whether a sample of these is free, bool `[sample]`.
    """

    pool: Pool
    evidence: Evidence
    shadows: Chunk
    everyone: Pool
    free: np.ndarray

    @property
    def rehearsal(self) -> Evidence:
        """The evidence of those shadows that may play the target.

        The members of a second round are drawn by the scores of the first. Its masks agree with each other, so that the
        number of other models that hold a sample would tell the membership of a shadow that plays; only the first
        round's models tell nothing of each other's.
        """
        rounds = self.shadows.extra.get(ROUND)
        if rounds is None:
            return self.evidence
        first, whole = rounds == 1, self.evidence
        return Evidence(whole.target, whole.shadows[first], whole.mask[first], whole.labels)

    def for_everyone(self, values: np.ndarray) -> np.ndarray:
        """Values of the free samples among all samples, float64 `[sample]`; NaN where a sample is not free."""
        found = np.full(len(self.everyone), np.nan)
        found[self.free] = values
        return found


def read_matrices(out: Path) -> Matrices:
    """Reads `pool.npz`, `target.npz` and `shadows/*.npz`, whoever made them.

    Raises:
        InputError: One is missing, damaged, or of another pool than the others.
    """
    run = RunDir(out)
    pool = Pool.load(run.pool)
    target = load_npz(run.target, required=("phi",))["phi"]
    if target.ndim != 2:
        raise InputError(f"{run.target}: phi has shape {list(target.shape)}, expected [view, sample]")
    if target.dtype.kind == "f" and (large := np.argwhere(_too_large(target))).size:
        view, sample = large[0]
        raise InputError(
            f"{run.target}: phi of view {view} at sample {sample} is {target[view, sample]:g}, expected a "
            f"logit margin of at most {LARGEST_MARGIN:g} in size"
        )
    shadows = ScoreStore(run.shadows).read()
    for name, phi in ((run.target, target), (run.shadows, shadows.phi)):
        if phi.shape[-1] != len(pool):
            raise InputError(f"{name}: phi has {phi.shape[-1]} samples, {run.pool} has {len(pool)}")
    free = free_samples(pool, shadows)
    everyone = pool
    if not free.all():
        pool, target, shadows = pool.take(free), target[:, free], shadows.take(free)
    try:
        evidence = Evidence(target, shadows.phi, shadows.mask, pool.labels, fold_of_samples(len(pool), shadows))
    except InputError as error:
        raise InputError(f"{out}: {error}") from error
    return Matrices(pool, evidence, shadows, everyone, free)


def free_samples(pool: Pool, shadows: Chunk) -> np.ndarray:
    """The samples that no shadow took as told, bool `[sample]`, by what the shadows say of their training.

    Raises:
        InputError: The files say that memberships were taken as told, but other ones than the pool's.
    """
    masks = configured_masks(pool, shadows.metadata)
    told = ~masks.free
    if (shadows.mask[:, told] != (masks.fixed[told] == 1)).any():
        known = recorded_number(shadows.metadata, "cache_key", "shadow", "known")
        raise InputError(
            f"shadows mask: shadow.known is {known}, but these models did not take the memberships of pool.npz as told"
        )
    return masks.free


def configured_masks(pool: Pool, metadata: Mapping[str, Any]) -> Masks:
    """The masks of models that record `metadata`; without a record of memberships taken as told, none was.

    Raises:
        InputError: The record of the share or of the seed is none.
    """
    known = recorded_number(metadata, "cache_key", "shadow", "known")
    if known is None:
        return Masks.random(0, len(pool))
    seed = metadata.get("cache_key", {}).get("seed")
    if type(seed) is not int or not 0 <= seed < 2**32 or known > 1:
        raise InputError(
            f"shadows metadata: shadow.known is {known:g} and seed {printable(repr(seed))}, expected a share and a seed"
        )
    return Masks.knowing(seed, pool.membership, known)


def fold_of_samples(samples: int, shadows: Chunk) -> np.ndarray | None:
    """Fold of each sample in an informed audit, int `[sample]`, by what its shadows record; None for other runs."""
    folds = recorded_number(shadows.metadata, "cache_key", "folds")
    if folds is None:
        return None
    seed = recorded_number(shadows.metadata, "cache_key", "seed") or 0
    return draw_folds(int(seed), samples, int(folds))


def _too_large(phi: np.ndarray) -> np.ndarray:
    wide = phi.astype(np.float64)  # half precision does not reach that far
    return np.isfinite(wide) & (np.abs(wide) > LARGEST_MARGIN)
