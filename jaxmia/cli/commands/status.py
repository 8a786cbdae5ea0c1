"""The command that says how far a run is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxmia.cli.overrides import refuse_overrides

_A_CENTURY = 3.2e9
"""Seconds; a rate that asks for more says nothing."""

if TYPE_CHECKING:
    from jaxmia.runs.status import Status


@dataclass
class ShowStatus:
    """How far a run is: models done, running and missing, whether they are enough to score, images/s, time left.

    Example: jaxmia status runs/tml26
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the results."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON instead of lines."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Prints."""
        refuse_overrides(overrides)
        from jaxmia.cli.display import output
        from jaxmia.runs.status import read_status

        status = read_status(self.out)
        output(json.dumps(status.to_dict(), indent=2) if self.json else "\n".join(describe(status)))


def describe(status: "Status") -> list[str]:
    """A status in lines."""
    from jaxmia.runs.status import ranges

    if status.fused:
        return [f"fused:   the scores of {', '.join(status.fused)}; no models are trained here"]
    of = f" of {status.count}" if status.count is not None else ""
    lines = [f"done:    {len(status.done)}{of} models"]
    for job in status.jobs:
        share = f"{100 * job['done'] / job['total']:.0f} %" if job.get("done") and job.get("total") else "beginning"
        seen = "" if job["silent_seconds"] is None else f", last sign {job['silent_seconds']:.0f} s ago"
        where = f"process {job['pid']} of {job['host']}"
        lines.append(f"running: {ranges(sorted(job['models']))} by {where}: {job.get('stage', '')} {share}{seen}")
    if status.missing:
        lines.append(f"missing: {ranges(status.missing)}")
    for saved in status.saved:
        lines.append(f"saved:   {ranges(saved['models'])} at step {saved['step']}; the same command goes on from there")
    if status.diverged:
        lines.append(f"diverged: {ranges(status.diverged)}, left out; a lower shadow.learning_rate may keep them")
    if status.done:
        lines.append(f"models:  {status.enough}")
    lines += [f"damaged: {path}; `jaxmia train` sets it aside and makes its models again" for path in status.damaged]
    if status.images_per_second:
        lines.append(f"speed:   {status.images_per_second:,.0f} images/s")
    if status.seconds_left and status.seconds_left < _A_CENTURY:
        lines.append(f"left:    {timedelta(seconds=round(status.seconds_left))}")
    return lines
