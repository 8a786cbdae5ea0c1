"""Paths of the files in a run directory."""

from pathlib import Path


class RunDir:
    """Paths in a run directory; none of them need exist.

    Attributes:
        path: The directory itself.
        config: The resolved configuration.
        pool: Ids, labels and membership of the samples.
        target: The target's logit margins.
        partial_target: Margins in the views that are queried so far, while the target is queried.
        shadows: Folder of the shadows' logit margins, one file per chunk.
        claims: Folder of claims on models in training.
        checkpoints: Folder of checkpoints of chunks in training.
        weights: Folder of trained weights, if they are kept.
        log: Event log, one JSON object per line.
        scores: Scores of each attack.
        samples: Table with one row per sample.
        metrics: Results, as in `jaxmia.runs.metrics.RunMetrics`.
        submission: Scores of the private samples, ready to upload.
        report: HTML report.
        figures: Folder of the report's figures.
        tables: Tables of the report in LaTeX.
        trials: Folder of the margins of the models trained by `jaxmia match`, one file per model.
        search: The recipes and the number of models that the last call of `jaxmia match` wants.
        trial_checkpoints: Folder of checkpoints of such models in training.
        match: Comparison of the recipes.
        matched: Configuration with the best recipe.
        rounds: Folder of the runs of both rounds, if there are two.
        folds: Folder of the runs of an informed audit, one per fold.
        uninformed: Run directory of the attack that an informed audit is compared with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = Path(path)
        self.config = path / "config.yaml"
        self.pool = path / "pool.npz"
        self.target = path / "target.npz"
        self.partial_target = path / "target.partial.npz"
        self.shadows = path / "shadows"
        self.claims = path / "claims"
        self.checkpoints = path / "checkpoints"
        self.weights = path / "weights"
        self.log = path / "log.jsonl"
        self.scores = path / "scores.npz"
        self.samples = path / "samples.csv"
        self.metrics = path / "metrics.json"
        self.submission = path / "submission.csv"
        self.report = path / "report.html"
        self.figures = path / "figures"
        self.tables = self.figures / "tables.tex"
        self.trials = path / "match"
        self.search = self.trials / "search.json"
        self.trial_checkpoints = self.trials / "checkpoints"
        self.match = path / "match.json"
        self.matched = path / "matched.yaml"
        self.rounds = path / "rounds"
        self.folds = path / "folds"
        self.uninformed = path / "uninformed"
