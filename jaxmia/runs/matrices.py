"""What a run directory holds once its models are trained and queried."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxmia.attacks import Evidence
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.files import load_npz
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import LARGEST_MARGIN, Chunk, ScoreStore


@dataclass(frozen=True)
class Matrices:
    """What a run directory holds once its models are trained and queried.

    Attributes:
        pool: Without images.
        evidence: The target's and the shadows' margins.
        shadows: All chunks as one.
    """

    pool: Pool
    evidence: Evidence
    shadows: Chunk


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
    try:
        evidence = Evidence(target, shadows.phi, shadows.mask, pool.labels)
    except InputError as error:
        raise InputError(f"{out}: {error}") from error
    return Matrices(pool, evidence, shadows)


def _too_large(phi: np.ndarray) -> np.ndarray:
    wide = phi.astype(np.float64)  # half precision does not reach that far
    return np.isfinite(wide) & (np.abs(wide) > LARGEST_MARGIN)
