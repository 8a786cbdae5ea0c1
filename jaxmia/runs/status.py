"""Progress of a run, read from its directory."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmia.attacks.incomplete import MAX_INCOMPLETE
from jaxmia.config import load_config
from jaxmia.errors import InputError, UnreadableFile
from jaxmia.files import read_json
from jaxmia.runs.claims import Claims, Lease
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.search import SearchStatus, read_search
from jaxmia.runs.store import Entry, ScoreStore, recorded_number

_MAX_RANGES = 100


@dataclass(frozen=True)
class Status:
    """Progress of a run.

    Attributes:
        count: Number of configured models; None without a configuration.
        done: Numbers of the stored models.
        running: Numbers of the models in training.
        missing: Numbers of the other models; empty without a configuration.
        saved: Numbers of missing models that have a checkpoint, with the number of steps it contains.
        diverged: Numbers of models that are left out because their training diverged.
        fewest_in: Smallest number of models, of those done, that a sample is IN; 0 without models. Samples whose
            membership is fixed are not scored and do not count.
        fewest_out: The same of OUT.
        enough: Whether these models are enough to score, as a phrase.
        scored: Number of models that the stored scores are computed from; None if there are no scores.
        damaged: Files that cannot be read.
        jobs: Process, models and progress of each job, and the seconds since its last heartbeat.
        images_per_second: Speed of all running jobs, or of the stored chunks if there are none; None if unknown.
        seconds_left: Time until all models are trained at that speed; None if unknown.
        fused: Directories of the runs that were fused into this one; empty for other runs.
        rounds: Progress of each round that has begun of a run in two rounds whose models are not joined yet; all else
            is then empty.
        search: Progress of the search for the target's recipe; None without one.
    """

    count: int | None
    done: list[int]
    running: list[int]
    missing: list[int]
    saved: list[dict[str, Any]]
    diverged: list[int]
    fewest_in: int
    fewest_out: int
    enough: str
    scored: int | None
    damaged: list[str]
    jobs: list[dict[str, Any]]
    images_per_second: float | None
    seconds_left: float | None
    fused: list[str]
    rounds: list["Status"]
    search: SearchStatus | None

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain JSON."""
        return asdict(self)


def read_status(out: Path) -> Status:
    """Reads the progress of a run; only removes the claims of processes that have ended.

    Raises:
        InputError: The folder does not exist, or its configuration is invalid.
    """
    if not out.is_dir():
        raise InputError(f"{out}: no such folder")
    return _read(out, 0)


def _read(out: Path, first: int) -> Status:
    """Progress of the models of a run directory, which are numbered from `first` on."""
    config = RunDir(out).config
    end = load_config(config).shadow.count if config.exists() else None
    store = ScoreStore(RunDir(out).shadows)
    entries = store.index()
    done = {model for entry in entries for model in entry.models}
    claims = Claims(RunDir(out).claims)
    others = claims.others()
    running = {model for claim in others for model in claim.models} - done
    diverged = {model for entry in entries for model in entry.diverged} - done
    missing = set(range(first, end or 0)) - done - running - diverged
    training = [speed for claim in others if (speed := claim.progress.get("images_per_second"))]
    speed = sum(training) or _past_speed(entries)
    left = _images_left(entries, others, len(missing))
    inside, outside = store.counts()
    readable = {entry.path for entry in entries}
    return Status(
        count=None if end is None else end - first,
        done=sorted(done),
        running=sorted(running),
        missing=sorted(missing),
        saved=_saved(RunDir(out).checkpoints, missing),
        diverged=sorted(diverged),
        fewest_in=int(inside.min()) if len(inside) else 0,
        fewest_out=int(outside.min()) if len(outside) else 0,
        enough=enough(inside, outside),
        scored=_scored(out),
        damaged=[str(path) for path in store.paths() if path not in readable],
        jobs=[_job(claims.folder, claim) for claim in others],
        images_per_second=speed,
        seconds_left=left / speed if speed and left is not None else None,
        fused=[] if config.exists() or entries else _fused(out),
        rounds=[] if store.paths() else _rounds(out),
        search=read_search(out),
    )


def _rounds(out: Path) -> list[Status]:
    found: list[Status] = []
    for folder in sorted(RunDir(out).rounds.glob("[12]")):
        found.append(_read(folder, sum(before.count or 0 for before in found)))
    return found


def _saved(checkpoints: Path, missing: set[int]) -> list[dict[str, Any]]:
    """Checkpoints from which the run will resume; folders without readable metadata are ignored."""
    found = []
    for path in sorted(checkpoints.glob("*/about.json")):
        try:
            models = read_json(path, "jaxmia train")["models"]
            steps = [int(step.name) for step in path.parent.iterdir() if step.name.isdecimal()]
            waiting = sorted(missing & set(models))
        except (UnreadableFile, OSError, KeyError, TypeError):
            continue
        if steps and waiting:
            found.append({"models": waiting, "step": max(steps)})
    return found


def _scored(out: Path) -> int | None:
    try:
        return RunMetrics.read(out).models
    except InputError:
        return None


def _fused(out: Path) -> list[str]:
    return [one.run for one in RunMetrics.read(out).fused] if RunDir(out).metrics.exists() else []


def missing_models(out: Path, held: set[int]) -> list[int]:
    """Numbers of configured models that are not among `held`; empty without a configuration."""
    config = RunDir(out).config
    return sorted(set(range(load_config(config).shadow.count)) - held) if config.exists() else []


def enough(inside: np.ndarray, outside: np.ndarray) -> str:
    """Describes whether these numbers of IN and OUT models, int `[sample]` each, are enough to score every sample."""
    total, without_in, without_out = len(inside), int((inside == 0).sum()), int((outside == 0).sum())
    lack = int(((inside == 0) | (outside == 0)).sum())
    if not total:
        return "too few for attacks that use shadows: there are none"
    if not lack:
        return f"enough to score: each sample has at least {inside.min()} IN and {outside.min()} OUT"
    if lack <= MAX_INCOMPLETE * total:
        return f"enough to score: {lack} of {total} samples lack IN or OUT models, and more models would leave none"
    if not without_out:
        return f"enough for offline attacks only: {without_in} of {total} samples have no IN model"
    return f"too few for attacks that use shadows: {without_out} of {total} samples have no OUT model"


def ranges(numbers: list[int]) -> str:
    """Formats ascending numbers as ranges, such as `0-7, 12`; a long list is cut short with a count of the rest."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    words = [f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts[:_MAX_RANGES]]
    return ", ".join(words) + (f" and {len(parts) - _MAX_RANGES:,} more" if len(parts) > _MAX_RANGES else "")


def _job(folder: Path, claim: Lease) -> dict[str, Any]:
    path = folder / f"{min(claim.models):05d}-{max(claim.models):05d}.json"
    try:
        silent = max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        silent = None
    return {
        "models": list(claim.models),
        "host": claim.host,
        "pid": claim.pid,
        "silent_seconds": silent,
        **claim.progress,
    }


def _past_speed(entries: list[Entry]) -> float | None:
    """Images/s of one job, averaged over the stored chunks."""
    images = sum(recorded_number(entry.metadata, "trained_images") or 0 for entry in entries)
    seconds = sum(recorded_number(entry.metadata, "train_seconds") or 0 for entry in entries)
    return images / seconds if images and seconds else None


def _images_left(entries: list[Entry], claims: list[Lease], missing: int) -> float | None:
    """Number of images left to train on; None if the number per model is unknown."""
    recorded = [
        tuple(recorded_number(entry.metadata, name) for name in ("trained_images", "trained_together"))
        for entry in entries
    ]
    training = [claim for claim in claims if claim.progress.get("stage") == "training" and "total" in claim.progress]
    known = [(images, models) for images, models in recorded if images and models]
    known += [(claim.progress["total"], len(claim.models)) for claim in training]
    if not known:
        return None
    per_model = sum(images for images, _ in known) / sum(models for _, models in known)
    unknown = sum(len(claim.models) for claim in claims if not claim.progress)
    running = sum(claim.progress["total"] - claim.progress.get("done", 0) for claim in training)
    return running + (missing + unknown) * per_model
