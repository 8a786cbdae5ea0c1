"""The samples in question: public first, then private."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxmia.errors import InputError
from jaxmia.files import load_npz, save_npz

UNKNOWN = -1


@dataclass(frozen=True)
class Pool:
    """Every sample of a challenge, public samples first.

    Attributes:
        images: uint8 in [0, 255] where that is exact, else float32 in [0, 1]; `[sample, height, width, channel]`.
            None where only matrices are scored.
        labels: int32 `[sample]`, counted from 0.
        ids: str `[sample]`, unique.
        membership: int8 `[sample]`: 1 member, 0 non-member, -1 unknown (private).
    """

    images: np.ndarray | None
    labels: np.ndarray
    ids: np.ndarray
    membership: np.ndarray

    def __post_init__(self) -> None:
        sizes = {"labels": len(self.labels), "ids": len(self.ids), "membership": len(self.membership)}
        if self.images is not None:
            sizes["images"] = len(self.images)
        if len(set(sizes.values())) > 1:
            raise InputError("pool: lengths differ: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def public(self) -> np.ndarray:
        """Bool `[sample]`: membership is known."""
        return self.membership != UNKNOWN

    def save(self, path: Path) -> None:
        """Writes ids, labels and membership (not the images) to an `.npz`."""
        save_npz(path, {"ids": self.ids, "labels": self.labels, "membership": self.membership})

    @classmethod
    def load(cls, path: Path) -> "Pool":
        """Reads what `save` wrote; `images` is None.

        Raises:
            InputError: The file is missing or damaged, a field has another shape or type, an id comes twice, or a
                membership is none of 1, 0, -1.
        """
        arrays = load_npz(path, required=("ids", "labels", "membership"))
        ids = arrays["ids"].astype(np.str_)
        for name in ("ids", "labels", "membership"):
            if arrays[name].ndim != 1:
                raise InputError(f"{path}: {name} has shape {arrays[name].shape}, expected [sample]")
        if len(np.unique(ids)) < len(ids):
            values, counts = np.unique(ids, return_counts=True)
            raise InputError(f"{path}: ids: {values[counts > 1][0]!r} comes {counts.max()} times, expected once")
        for name in ("labels", "membership"):
            if arrays[name].dtype.kind not in "iub":
                raise InputError(f"{path}: {name} is {arrays[name].dtype}, expected integers")
        strange = ~np.isin(arrays["membership"], (UNKNOWN, 0, 1))
        if strange.any():
            raise InputError(f"{path}: membership: {arrays['membership'][strange][0]} is none of 1, 0, -1 (unknown)")
        return cls(None, arrays["labels"].astype(np.int32), ids, arrays["membership"].astype(np.int8))
