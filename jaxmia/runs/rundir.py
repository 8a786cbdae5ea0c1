"""Where everything lies in a run directory."""

from pathlib import Path


class RunDir:
    """The paths of a run directory; none of them need exist.

    Attributes:
        path: The directory itself.
        config: The resolved configuration.
        pool: Ids, labels and membership of the samples.
        target: The target's logit margins.
        shadows: Folder of the shadows' logit margins, one file a chunk.
        claims: Folder of who trains what at the moment.
        checkpoints: Folder of half-trained chunks.
        weights: Folder of trained weights, where they are kept.
        log: What happened, one JSON object a line.
        scores: Each attack's scores.
        samples: A table of the samples, one row each.
        metrics: What `jaxmia.runs.metrics.RunMetrics` holds.
        submission: The scores of the private samples, ready to upload.
        report: The page that shows the results.
        figures: Folder of the page's figures.
        tables: The page's tables in LaTeX.
        trials: Folder of what `jaxmia match` has trained, one file a recipe.
        match: How the recipes compare.
        matched: The configuration with the best recipe.
        rounds: Folder of the runs of both rounds, where there are two.
        folds: Folder of the runs of an informed audit, one for each fold.
        uninformed: Run directory of the attack that an informed audit is compared with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = Path(path)
        self.config = path / "config.yaml"
        self.pool = path / "pool.npz"
        self.target = path / "target.npz"
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
        self.match = path / "match.json"
        self.matched = path / "matched.yaml"
        self.rounds = path / "rounds"
        self.folds = path / "folds"
        self.uninformed = path / "uninformed"
