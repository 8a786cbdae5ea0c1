"""Reads the margins and masks of a run directory whose models have been trained and queried."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Real, Shaped

from jaxmia.attacks import Evidence
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.evaluation.unlike import Likeness, evidence_on_fixed, likeness_to_shadows
from jaxmia.files import load_npz
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import LARGEST_MARGIN, Chunk, ScoreStore, metadata_of

ROUND = "round"
"""Name of the array `[model]` with the round in which each model was trained, if there are two."""


@dataclass(frozen=True)
class Matrices:
    """Margins and masks of a run directory whose models have been trained and queried.

    Samples of fixed membership (`shadow.known`) have no IN or no OUT models. They are left out here, so that attacks
    and figures concern free samples only.

    Attributes:
        pool: The free samples, without images.
        evidence: Margins of the target and the shadows on free samples.
        shadows: All chunks as one, on free samples.
        everyone: All samples, without images.
        free: Whether each of all samples is free.
        fixed: Margins in view 0 on the samples of fixed membership, of the target and of the shadows that may serve as
            pseudo-targets; None if there is no such sample. They cannot be scored, but show how alike the models are.
        target_network: Architecture of the target, if it is recorded.
    """

    pool: Pool
    evidence: Evidence
    shadows: Chunk
    everyone: Pool
    free: Bool[np.ndarray, " everyone"]
    fixed: Evidence | None = None
    target_network: str | None = None

    @property
    def pseudo_target_evidence(self) -> Evidence:
        """Evidence restricted to the shadows that may serve as pseudo-targets.

        The training sets of a second round depend on the scores of the first. Their masks are correlated, so the number
        of other models trained on a sample would reveal whether a pseudo-target was. Only the masks of the first round
        are independent.
        """
        first, whole = _first_round(self.shadows), self.evidence
        return whole if first.all() else Evidence(whole.target, whole.shadows[first], whole.mask[first], whole.labels)

    @cached_property
    def likeness(self) -> Likeness:
        """Comparison of the target with the shadows that may serve as pseudo-targets."""
        return likeness_to_shadows(self.pseudo_target_evidence, self.fixed)

    @property
    def shadow_network(self) -> str | None:
        """Architecture of the shadows, if it is recorded."""
        recipe = self.shadows.metadata.get("cache_key", {}).get("shadow")
        name = recipe.get("architecture") if isinstance(recipe, dict) else None
        return name if isinstance(name, str) else None

    def for_everyone(self, values: Shaped[np.ndarray, " sample"]) -> Float64[np.ndarray, " everyone"]:
        """Expands values of the free samples to all samples; NaN where a sample is not free."""
        found = np.full(len(self.everyone), np.nan)
        found[self.free] = values
        return found


def read_matrices(out: Path) -> Matrices:
    """Reads `pool.npz`, `target.npz` and `shadows/*.npz` from any source.

    Raises:
        InputError: A file is missing, damaged, or belongs to another pool than the others.
    """
    run = RunDir(out)
    _refuse_missing(run, run.pool)
    pool = Pool.load(run.pool)
    _refuse_missing(run, run.target)
    arrays = load_npz(run.target, required=("phi",))
    target, network = arrays["phi"], metadata_of(run.target, arrays).get("network")
    if target.ndim != 2:
        raise InputError(f"{run.target}: phi has shape {list(target.shape)}, expected [view, sample]")
    if target.dtype.kind == "f" and (strange := np.argwhere(~_are_margins(target))).size:
        view, sample = strange[0]
        raise InputError(
            f"{run.target}: the target's logit margin of sample {sample} in view {view} is {target[view, sample]:g}, "
            f"expected a number of at most {LARGEST_MARGIN:g} in size"
        )
    shadows = ScoreStore(run.shadows).read()
    for name, phi in ((run.target, target), (run.shadows, shadows.phi)):
        if phi.shape[-1] != len(pool):
            raise InputError(f"{name}: phi has {phi.shape[-1]} samples, {run.pool} has {len(pool)}")
    _refuse_other_memberships(run, pool, shadows)
    try:
        return join_matrices(pool, target, shadows, network if isinstance(network, str) else None)
    except InputError as error:
        raise InputError(f"{out}: {error}") from error


def join_matrices(
    pool: Pool, target: Real[np.ndarray, "view sample"], shadows: Chunk, target_network: str | None = None
) -> Matrices:
    """Joins the margins of the target and its shadows on the same samples.

    Args:
        pool: All samples.
        target: Margins of the target, in nats.
        shadows: All shadow models; `free` says which samples are scored.
        target_network: Architecture of the target, if it is known.

    Raises:
        InputError: A shape or type is wrong, a margin is not finite, or no sample is free.
    """
    free = np.ones(len(pool), bool) if shadows.free is None else shadows.free
    if not free.any():
        raise InputError("shadows free: the membership of every sample is fixed, so that none can be scored")
    everyone, first = replace(pool, images=None), _first_round(shadows)
    fixed = evidence_on_fixed(target, shadows.phi[first, :1], shadows.mask[first], pool.labels, free)
    scored = everyone
    if not free.all():
        scored, target, shadows = everyone.take(free), target[:, free], shadows.take(free)
    evidence = Evidence(target, shadows.phi, shadows.mask, scored.labels, shadows.fold)
    return Matrices(scored, evidence, shadows, everyone, free, fixed, target_network)


def _first_round(shadows: Chunk) -> Bool[np.ndarray, " model"]:
    """Whether each model was trained in the first round."""
    return shadows.extra.get(ROUND, np.ones(len(shadows.model))) == 1


def _refuse_missing(run: RunDir, path: Path) -> None:
    """Rejects a missing file; the message names the command that writes it."""
    if path.exists():
        return
    if not run.path.is_dir():
        raise InputError(f"{run.path}: no such folder")
    if run.metrics.exists() and (fused := RunMetrics.read(run.path).fused):
        runs = ", ".join(one.run for one in fused)
        raise InputError(f"{run.path}: was fused from {runs}; score these and fuse them again")
    raise InputError(f"{path}: no such file; jaxmia query --out {run.path} with the configuration of the run writes it")


def _refuse_other_memberships(run: RunDir, pool: Pool, shadows: Chunk) -> None:
    """Rejects shadows that do not record which memberships are fixed, or whose fixed ones are not those of the pool."""
    recorded = shadows.metadata.get("cache_key", {})
    if ("told" in recorded and shadows.free is None) or ("folds" in recorded and shadows.fold is None):
        raise InputError(
            f"{run.shadows}: an earlier version of jaxmia did not store which memberships are fixed, or the folds; "
            "start it again"
        )
    if shadows.free is None:
        return
    fixed = ~shadows.free
    if (shadows.mask[:, fixed] != pool.membership[fixed]).any():
        raise InputError(f"{run.shadows}: the fixed memberships of these models differ from {run.pool}")


def _are_margins(phi: np.ndarray) -> np.ndarray:
    return np.abs(phi.astype(np.float64)) <= LARGEST_MARGIN  # half precision cannot represent the limit
