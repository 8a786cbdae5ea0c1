"""The input of every attack: margins of the target and the shadows, and membership masks."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Integer, Real

from jaxmia.attacks.moments import Moments, moments
from jaxmia.errors import InputError, MissingModels

Value = TypeVar("Value")


class _Origin(NamedTuple):
    """The evidence of which a shadow became a pseudo-target, and that shadow."""

    evidence: "Evidence"
    model: int


@dataclass(frozen=True, eq=False)
class Evidence:
    """Logit margins `phi = z_y - logsumexp(z_j, j != y)`, in nats, of the target and of its shadow models.

    All attacks are called with the same arrays, which are read-only.

    Attributes:
        target: Margins of the target; view 0 is the identity.
        shadows: Margins of the shadows; statistics are computed in float64.
        mask: Whether the model was trained on the sample (IN).
        labels: Class of each sample.
        fold: Fold of each sample, if every fold has its own shadows and each row joins one of every fold; None if each
            row is one model.

    Raises:
        InputError: A shape or type is wrong, or a margin is not finite.

    >>> Evidence(np.zeros((1, 4)), np.zeros((2, 1, 4)), np.zeros((2, 4), bool), np.zeros(4, np.int32))
    Evidence(2 models, 1 views, 4 samples)
    """

    target: Real[np.ndarray, "view sample"]
    shadows: Float[np.ndarray, "model view sample"]
    mask: Bool[np.ndarray, "model sample"]
    labels: Integer[np.ndarray, " sample"]
    fold: Integer[np.ndarray, " sample"] | None = None
    _sides: tuple[Moments, Moments] | None = field(default=None, kw_only=True, repr=False)
    _computed: dict[Hashable, Any] = field(default_factory=dict, kw_only=True, repr=False)
    _origin: _Origin | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        target = np.asarray(self.target)
        if target.dtype.kind not in "fiu":
            raise InputError(f"logit margins of the target: are {target.dtype}, expected float32 or float64")
        object.__setattr__(self, "target", target.astype(np.float64))
        for name, value in (("shadows phi", self.shadows), ("shadows mask", self.mask), ("labels", self.labels)):
            if not isinstance(value, np.ndarray):
                raise InputError(f"{name}: is a {type(value).__name__}, expected a NumPy array")
        _check_shapes(self.target, self.shadows, self.mask, self.labels)
        if self.fold is not None and (self.fold.dtype.kind not in "iu" or self.fold.shape != self.labels.shape):
            raise InputError(
                f"fold: is {self.fold.dtype} of shape {self.fold.shape}, expected {len(self.labels)} integers"
            )
        _check_finite("logit margins of the target", ("view", "sample"), self.target)
        _check_finite("logit margins of the shadows", ("model", "view", "sample"), self.shadows)
        for name in ("target", "shadows", "mask", "labels", "fold"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))

    def __repr__(self) -> str:
        models, views, samples = self.shadows.shape
        return f"Evidence({models} models, {views} views, {samples} samples)"

    @property
    def in_(self) -> Moments:
        """Moments over the models trained on each sample.

        Raises:
            MissingModels: A sample has no IN model.
        """
        return self.complete(self.sides[0], "IN")

    @property
    def out(self) -> Moments:
        """Moments over the models not trained on each sample.

        Raises:
            MissingModels: A sample has no OUT model.
        """
        return self.complete(self.sides[1], "OUT")

    @cached_property
    def sides(self) -> tuple[Moments, Moments]:
        """IN and OUT moments of every sample; `count` is 0 where a sample has no such models."""
        return self._sides or moments(self.shadows, self.mask)

    def of_shadows(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Computes what follows from the shadows alone, or returns it if an attack has computed it already.

        Attacks share it, also on evidence that `with_target` derives.

        Args:
            key: What is computed, with all parameters.
            compute: Computes it from the shadows, masks and labels.
        """
        if key not in self._computed:
            self._computed[key] = compute()
        return self._computed[key]

    def of_each_shadow(
        self, key: Hashable, compute: Callable[[Float[np.ndarray, "view sample"]], np.ndarray], *, every: int = 1
    ) -> np.ndarray:
        """Computes an array from the margins of each shadow, `[model, ...]`, and keeps it as `of_shadows` does.

        A pseudo-target's evidence takes it from the whole, unless samples are left out.

        Args:
            key: What is computed, with all parameters.
            compute: Computes it from the margins of one shadow.
            every: Step from one shadow to the next.
        """
        whole, left_out = (self._origin.evidence, [self._origin.model]) if self._origin else (self, [])
        models = np.delete(np.arange(len(whole.shadows)), left_out)[::every]
        return np.array([whole.of_shadows((key, model), lambda m=model: compute(whole.shadows[m])) for model in models])

    def pseudo_targets(self, models: Sequence[int]) -> Iterator[tuple["Evidence", Bool[np.ndarray, " kept"]]]:
        """Uses each of the given shadows in turn as a pseudo-target, with all others as its shadows.

        Samples without IN or without OUT models among the others are left out. Since the masks of different models are
        independent, this reveals nothing about the pseudo-target's members.

        Yields:
            The evidence for that pseudo-target, and its membership.
        """
        models = list(models)
        rest = moments(np.delete(self.shadows, models, axis=0), np.delete(self.mask, models, axis=0))
        for model in models:
            peers = [peer for peer in models if peer != model]
            in_, out = moments(self.shadows[peers], self.mask[peers])
            sides = rest[0].merge(in_), rest[1].merge(out)
            kept = np.flatnonzero((sides[0].count > 0) & (sides[1].count > 0))
            others = Evidence(
                self.shadows[model],
                np.delete(self.shadows, model, axis=0),
                np.delete(self.mask, model, axis=0),
                self.labels,
                _sides=sides,
                _origin=_Origin(self, model),
            )
            yield others.take(kept), self.mask[model, kept]

    def with_target(self, target: Real[np.ndarray, "view sample"]) -> "Evidence":
        """Returns the evidence with other margins of the target."""
        return replace(self, target=target, _sides=self.sides)

    def by_fold(self) -> list["Evidence"]:
        """Splits the evidence by fold, so that each row is one model; without folds it is the only element."""
        if self.fold is None:
            return [self]
        parts = [self.take(np.flatnonzero(self.fold == fold)) for fold in np.unique(self.fold)]
        return [Evidence(part.target, part.shadows, part.mask, part.labels, _sides=part.sides) for part in parts]

    def take(self, samples: Integer[np.ndarray, " taken"]) -> "Evidence":
        """Restricts the evidence to the samples of the given indices, in their order.

        Raises:
            MissingModels: No index is given; the message assumes that no sample has both IN and OUT models.
        """
        if not len(samples):
            raise MissingModels("shadows mask: no sample has both IN and OUT models; train more models")
        if np.array_equal(samples, np.arange(len(self.labels))):
            return self
        in_, out = self.sides
        return Evidence(
            self.target[:, samples],
            self.shadows[:, :, samples],
            self.mask[:, samples],
            self.labels[samples],
            None if self.fold is None else self.fold[samples],
            _sides=(in_.take(samples), out.take(samples)),
        )

    def complete(self, side: Moments, name: str) -> Moments:
        """Returns the moments of one side, `IN` or `OUT`.

        Raises:
            MissingModels: A sample has no such model.
        """
        empty = np.flatnonzero(side.count == 0)
        if len(empty):
            raise MissingModels(
                f"shadows mask: sample {empty[0]} has no {name} model among {len(self.mask)}"
                + (f" (nor have {len(empty) - 1} others)" if len(empty) > 1 else "")
                + "; train more models"
                + (" or choose an offline attack" if name == "IN" else " or attack by the target alone")
            )
        return side


def _read_only(array: np.ndarray | None) -> np.ndarray | None:
    if array is None or not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def _check_shapes(target: np.ndarray, shadows: np.ndarray, mask: np.ndarray, labels: np.ndarray) -> None:
    if target.ndim != 2 or 0 in target.shape:
        raise InputError(f"target phi: has shape {target.shape}, expected [view, sample] with at least one of each")
    views, samples = target.shape
    if shadows.ndim != 3 or shadows.shape[1:] != (views, samples):
        raise InputError(
            f"shadows phi: has shape {shadows.shape}, expected [model, view, sample] with {views} views and {samples} "
            "samples, as the target's"
        )
    if mask.dtype != np.bool_ or mask.shape != (len(shadows), samples):
        raise InputError(
            f"shadows mask: is {mask.dtype} of shape {mask.shape}, expected bool [model, sample] = "
            f"{(len(shadows), samples)}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (samples,):
        raise InputError(f"labels: are {labels.dtype} of shape {labels.shape}, expected {samples} integers")


def _check_finite(name: str, axes: tuple[str, ...], phi: np.ndarray) -> None:
    if phi.dtype.kind != "f":
        raise InputError(f"{name}: are {phi.dtype}, expected float32 or float64")
    for index, part in enumerate(phi):  # one model or view at a time keeps the temporary small
        if not np.isfinite(part).all():
            position = (index, *np.argwhere(~np.isfinite(part))[0])
            where = ", ".join(f"{axis} {place}" for axis, place in zip(axes, position, strict=True))
            raise InputError(f"{name}: {where} is {phi[position]}, expected a finite number")
