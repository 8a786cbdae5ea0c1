from pathlib import Path

from jaxmia.runs.rundir import RunDir

NAMES = {
    "config": "config.yaml",
    "pool": "pool.npz",
    "target": "target.npz",
    "partial_target": "target.partial.npz",
    "shadows": "shadows",
    "claims": "claims",
    "checkpoints": "checkpoints",
    "weights": "weights",
    "log": "log.jsonl",
    "scores": "scores.npz",
    "samples": "samples.csv",
    "metrics": "metrics.json",
    "submission": "submission.csv",
    "report": "report.html",
    "figures": "figures",
    "tables": "figures/tables.tex",
    "trials": "match",
    "search": "match/search.json",
    "trial_checkpoints": "match/checkpoints",
    "match": "match.json",
    "matched": "matched.yaml",
    "rounds": "rounds",
    "folds": "folds",
    "uninformed": "uninformed",
}


def test_runs_of_earlier_versions_are_found_under_the_same_names(tmp_path: Path):
    paths = vars(RunDir(tmp_path))
    assert {name: str(path.relative_to(tmp_path)) for name, path in paths.items() if name != "path"} == NAMES
    assert not list(tmp_path.iterdir())
