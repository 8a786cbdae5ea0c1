"""Writes the results of a study as JSON and Markdown."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jaxmia.attacks
import jaxmia.evaluation.metrics
import jaxmia.evaluation.selection
import jaxmia.pipeline.scoring
from benchmarks.study import published, strength
from benchmarks.study.making import Case, Study
from benchmarks.study.strength import Subject, measure, subject, subject_of_run
from benchmarks.study.tables import RECIPE, details, summary
from jaxmia.files import write_text
from jaxmia.provenance import digest, origin
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import ScoreStore

logger = logging.getLogger(__name__)


RUN_SIZES = (8, 16, 32, 64, 128, 256)
"""Numbers of shadows with which other runs are attacked, as far as they have that many."""

SOURCES = (
    *sorted(Path(jaxmia.attacks.__file__).parent.glob("*.py")),
    *(
        Path(str(module.__file__))
        for module in (
            published,
            strength,
            jaxmia.evaluation.metrics,
            jaxmia.pipeline.scoring,
            jaxmia.evaluation.selection,
        )
    ),
)
"""Source files that a measurement depends on, besides the score files."""

Cell = dict[str, Any]
"""Result of `measure`."""


def write_report(study: Study, path: Path, runs: Sequence[Path] = ()) -> None:
    """Measures the challenges whose replicas are trained, and writes `PATH.json`, `PATH.md` and `PATH_targets.md`.

    Earlier measurements of the same score files by the same attacks are not repeated.

    Args:
        study: Study with the score files.
        path: Path of the report, without suffix.
        runs: Run directories of other challenges to include.
    """
    cases = [_case(study, case) for case in study.cases if _models(case.shadows("replicas"))]
    if not cases:
        raise SystemExit(f"{study.out}: no challenge has all of its replicas yet; train first")
    result = {
        "origin": origin(),
        "seed": study.seed,
        "cases": cases,
        "runs": {run.name: _run(study, run) for run in runs},
        "bench": _read(study.out / "bench" / "bench.json"),
        "profile": _read(study.out / "profile.json"),
    }
    write_text(path.with_suffix(".json"), json.dumps(result) + "\n")
    write_text(path.with_suffix(".md"), "\n".join(summary(study.preset, path.name, result)) + "\n")
    write_text(path.with_name(f"{path.name}_targets.md"), "\n".join(details(result)) + "\n")


def _case(study: Study, case: Case) -> dict[str, Any]:
    def measured(name: str, models: int) -> Cell:
        folders = [case.shadows(name), case.shadows("replicas")]
        return _measured(study, folders, models, lambda: subject(case, name, models))

    compared = study.preset.compared
    sizes = [models for models in study.preset.models if _models(case.shadows("matched")) >= models]
    recipes = [name for name in ("true", "matched", "default") if _models(case.shadows(name)) >= compared]
    matched = json.loads(RunDir(case.search).match.read_text())
    return {
        "recipe": case.recipe().model_dump(mode="json", include=set(RECIPE)),
        "accuracy": matched["target"],
        "trials": matched["trials"],
        "sizes": {str(models): measured("matched", models) for models in sizes},
        "recipes": {name: measured(name, compared) for name in recipes},
    }


def _run(study: Study, run: Path) -> dict[str, Any]:
    sizes = [models for models in RUN_SIZES if _models(run) >= models]
    return {
        "judged": "private truth" if (run / "truth.csv").exists() else "public labels",
        "sizes": {
            str(models): _measured(study, [run], models, lambda models=models: subject_of_run(run, models))
            for models in sizes
        },
    }


def _measured(study: Study, folders: Sequence[Path], models: int, make: Callable[[], Subject]) -> Cell:
    files = sorted(file for folder in folders for file in RunDir(folder).shadows.glob("*.npz"))
    stamp = digest(str(models).encode(), *(path.read_bytes() for path in (*files, *SOURCES)))
    kept = study.out / "measured" / f"{stamp}.json"
    if not kept.exists():
        logger.info(f"{folders[0]}: attacking with {models} shadows")
        write_text(kept, json.dumps(measure(make())) + "\n")
    return json.loads(kept.read_text())


def _models(run: Path) -> int:
    return len(ScoreStore(RunDir(run).shadows).models())


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None
