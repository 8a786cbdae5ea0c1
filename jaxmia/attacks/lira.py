"""The likelihood-ratio attack (Carlini et al., 2022, arXiv:2112.03570)."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.protocol import check_choice
from jaxmia.attacks.signal import VIEWS, Views, project, signals, weights
from jaxmia.attacks.variance import VARIANCES, Variance, side_variance, variances

Tail = Literal["one-sided", "two-sided"]


def log_normal(
    x: Float[np.ndarray, "*x"], mean: Float[np.ndarray, "*mean"], variance: Float[np.ndarray, "*variance"]
) -> Float[np.ndarray, "*density"]:
    """Log-density of `N(mean, variance)` at `x`, in nats."""
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))


@dataclass(frozen=True)
class LiraOnline:
    """`log N(phi; mean_in, var_in) - log N(phi; mean_out, var_out)`, in nats, averaged over the signals.

    If a sample has a single IN or OUT model, its undefined variance is replaced by that of all samples.

    >>> mask = np.array([[True], [True], [False], [False]])
    >>> shadows = np.array([2.0, 4.0, -1.0, 1.0]).reshape(4, 1, 1)
    >>> evidence = Evidence(np.array([[3.0]]), shadows, mask, np.array([0]))
    >>> LiraOnline("per-example")(evidence)  # means 3 and 0, variances 2 and 2: 9 / 4
    array([2.25])
    """

    variance: Variance = "shrunk"
    views: Views = "mean"

    def __post_init__(self) -> None:
        check_choice(self, "variance", VARIANCES)
        check_choice(self, "views", VIEWS)

    @property
    def name(self) -> str:
        """`lira-online-` and the variance, followed by the views unless they are `mean`."""
        return f"lira-online-{self.variance}" + ("" if self.views == "mean" else f"-{self.views}")

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member.

        Raises:
            InputError: A sample has no IN or no OUT model.
        """
        phi, in_, out = signals(evidence, self.views, evidence.in_, evidence.out)
        in_variance, out_variance = variances(in_, out, self.variance)
        member = log_normal(phi, in_.mean, in_variance)
        return (member - log_normal(phi, out.mean, out_variance)).mean(0)


@dataclass(frozen=True)
class LiraOffline:
    """How atypical the target's margin is for a model that was not trained on the sample; needs no IN model.

    `one-sided`: `(phi - mean_out) / std_out`, which ranks as the published `1 - Pr[OUT > phi]` without rounding to 1.
    `two-sided`: `-log N(phi; mean_out, var_out)`, in nats, which is also high for margins far below the mean.

    >>> mask = np.array([[True], [True], [False], [False]])
    >>> shadows = np.array([2.0, 4.0, -1.0, 1.0]).reshape(4, 1, 1)
    >>> evidence = Evidence(np.array([[3.0]]), shadows, mask, np.array([0]))
    >>> LiraOffline("per-example")(evidence)  # 3 / sqrt(2)
    array([2.121])
    """

    variance: Variance = "shrunk"
    tail: Tail = "one-sided"
    views: Views = "mean"

    def __post_init__(self) -> None:
        check_choice(self, "variance", tuple(mode for mode in VARIANCES if "tied" not in mode))
        check_choice(self, "tail", get_args(Tail))
        check_choice(self, "views", VIEWS)

    @property
    def name(self) -> str:
        """`lira-offline-` and the variance, followed by tail and views unless they are default."""
        tail = "" if self.tail == "one-sided" else f"-{self.tail}"
        return f"lira-offline-{self.variance}{tail}" + ("" if self.views == "mean" else f"-{self.views}")

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member.

        Raises:
            InputError: A sample has no OUT model.
        """
        mapping = weights(evidence, self.views)
        phi = mapping @ evidence.target
        out = project(evidence.out, mapping)
        variance = side_variance(out, self.variance)
        if self.tail == "two-sided":
            return -log_normal(phi, out.mean, variance).mean(0)
        return ((phi - out.mean) / np.sqrt(variance)).mean(0)
