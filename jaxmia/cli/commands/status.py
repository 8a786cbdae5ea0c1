"""The command that shows the progress of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxmia.cli.overrides import refuse_overrides

_A_CENTURY = 3.2e9
"""Longest remaining time in seconds that is shown; a rate that implies more is meaningless."""

if TYPE_CHECKING:
    from jaxmia.runs.search import SearchStatus
    from jaxmia.runs.status import Status


@dataclass
class ShowStatus:
    """Shows the progress of a run: models done, running and missing, whether they are enough, images/s, time left.

    In the folder of a search (jaxmia match), it shows how many models and recipes are trained, and the best recipe.

    Example: jaxmia status runs/tml26
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON instead of lines."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Prints the status."""
        refuse_overrides(overrides)
        from jaxmia.cli.display import output
        from jaxmia.files import json_text
        from jaxmia.runs.status import read_status

        status = read_status(self.out)
        output(json_text(status.to_dict(), indent=2) if self.json else "\n".join(describe(status)))


def describe(status: "Status") -> list[str]:
    """Formats a status as lines."""
    from jaxmia.runs.status import ranges

    if status.fused:
        return [f"fused:   scores of {', '.join(status.fused)}; this run trains no models"]
    searched = _describe_search(status.search) if status.search else []
    if searched and status.count is None and not status.done:
        return searched
    if status.rounds:
        return [f"round {number} of 2: {line}" for number, one in enumerate(status.rounds, 1) for line in describe(one)]
    lines = [f"done:    {_done(len(status.done), status.count)}"]
    for job in status.jobs:
        share = f"{100 * job['done'] / job['total']:.0f} %" if job.get("done") and job.get("total") else "beginning"
        seen = "" if job["silent_seconds"] is None else f", last seen {job['silent_seconds']:.0f} s ago"
        where = f"process {job['pid']} on {job['host']}"
        lines.append(f"running: {ranges(sorted(job['models']))} by {where}: {job.get('stage', '')} {share}{seen}")
    if status.missing:
        lines.append(f"missing: {ranges(status.missing)}")
    for saved in status.saved:
        lines.append(f"saved:   {ranges(saved['models'])} at step {saved['step']}; the same command resumes there")
    if status.diverged:
        lines.append(f"diverged: {ranges(status.diverged)}, left out; a lower shadow.learning_rate may help")
    if status.done:
        lines.append(f"models:  {status.enough}")
    if status.scored is not None and status.scored != len(status.done):
        lines.append(f"scores:  of {status.scored} models, not these {len(status.done)}; `jaxmia score` scores again")
    lines += [f"damaged: {path}; `jaxmia train` sets it aside and trains its models again" for path in status.damaged]
    if status.images_per_second:
        lines.append(f"speed:   {status.images_per_second:,.0f} images/s")
    if status.seconds_left and status.seconds_left < _A_CENTURY:
        lines.append(f"left:    {timedelta(seconds=round(status.seconds_left))}")
    return lines + searched


def _describe_search(search: "SearchStatus") -> list[str]:
    from jaxmia.cli.display import recipe_words

    over = search.models_done == search.models
    lines = [
        f"search:  {search.models_done} of {search.models} models are trained, all of {search.recipes_done} of "
        f"{search.recipes} recipes" + ("" if over else "; the same command resumes there")
    ]
    if best := search.best:
        figures = f"energy score {best['energy_score']:.3f} ± {best['std_error']:.3f} nats"
        lines.append(f"{'best:   ' if over else 'best so far:'} {recipe_words(best['recipe'])}; {figures}")
    return lines


def _done(done: int, count: int | None) -> str:
    if count is None:
        return f"{done} models"
    return f"{done} of {count} models" if done <= count else f"{done} models, {done - count} more than shadow.count"
