"""Chooses the number of training steps in each call."""

import time

from jaxmia.training.ensemble import Ensemble
from jaxmia.training.programs import MOST_STEPS

_SECONDS_A_CALL = 0.5


class Pace:
    """Chooses the number of steps of each call, since a call cannot be interrupted.

    Where that number is part of the program, it is as large as allowed. Elsewhere a call lasts about half a second, by
    the time since the last choice.

    Args:
        ensemble: Ensemble that makes the steps.
        most: Largest number of steps in a call, where a call makes many.
    """

    def __init__(self, ensemble: Ensemble, most: int = MOST_STEPS) -> None:
        self.most = most if ensemble.steps_in_one_call else 1
        """Largest number of steps in a call."""
        self._steps = self.most if ensemble.steps_are_static else 1
        self._static = ensemble.steps_are_static
        self._chosen: tuple[float, int] | None = None

    def choose(self, remaining: int) -> int:
        """Number of steps of the next call, at most `remaining`."""
        now = time.perf_counter()
        if self._chosen and not self._static:
            since, steps = self._chosen
            self._steps = min(max(round(_SECONDS_A_CALL * steps / (now - since)), 1), self.most)
        steps = min(self._steps, remaining)
        self._chosen = now, steps
        return steps
