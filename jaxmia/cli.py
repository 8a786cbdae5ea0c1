"""The command line: parse, call, print."""

import dataclasses
import difflib
import inspect
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxmia import __version__
from jaxmia.errors import InputError, UsageError

if TYPE_CHECKING:
    from jaxmia.config import Config
    from jaxmia.pipeline import Pipeline


@dataclass
class Run:
    """Everything from the three files to DIR/submission.csv; finished stages are not repeated.

    Example: jaxmia run --config configs/mini.yaml --out runs/mini --shadow.count 32
    """

    config: Path
    """Configuration (YAML); any field can be overridden by --section.field VALUE."""
    out: Path
    """Folder of the results."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Trains, queries, scores."""
        _run_all(_pipeline(_configure(self.config, overrides), self.out))


@dataclass
class Train:
    """Trains and queries the shadow models that are not there yet.

    Example: jaxmia train --config configs/tml26.yaml --out runs/tml26 --shard 0/4
    """

    config: Path
    """Configuration (YAML); any field can be overridden by --section.field VALUE."""
    out: Path
    """Folder of the results; jobs may share it."""
    shard: str = "0/1"
    """I/N: train the I-th (from 0) of N equal shares of the models."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Trains."""
        from jaxmia.pipeline import Shard

        shard = Shard.parse(self.shard)
        pipeline = _pipeline(_configure(self.config, overrides), self.out)
        pipeline.begin()
        pipeline.train(shard)


@dataclass
class Query:
    """Queries the target on every sample and view.

    Example: jaxmia query --config configs/mini.yaml --out runs/mini
    """

    config: Path
    """Configuration (YAML); any field can be overridden by --section.field VALUE."""
    out: Path
    """Folder of the results."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Queries."""
        pipeline = _pipeline(_configure(self.config, overrides), self.out)
        pipeline.begin()
        pipeline.query()


@dataclass
class Score:
    """Scores every sample and writes scores.npz, metrics.json and submission.csv.

    Needs pool.npz, target.npz and shadows/*.npz in DIR, whoever made them; no images, no models.

    Example: jaxmia score --out runs/mini --attack.name lira-online-global
    """

    out: Path
    """Folder of the results."""
    config: Path | None = None
    """Configuration (YAML); by default the run's own, if there is one."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Scores."""
        own = self.out / "config.yaml"
        _score(self.out, _configure(self.config or (own if own.exists() else None), overrides))


@dataclass
class Evaluate:
    """AUC and TPR at 5 %, 1 % and 0.1 % FPR with 95 % intervals, against a known truth.

    Example: jaxmia evaluate runs/demo --truth runs/demo/truth.csv
    """

    scores: Annotated[Path, tyro.conf.Positional]
    """A run directory (its submission.csv is read) or a CSV of id,score."""
    truth: Path
    """CSV of id,membership."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON instead of a table."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Evaluates."""
        _no_overrides(overrides)
        from jaxmia.display import figures_table, output
        from jaxmia.metrics import figures
        from jaxmia.submission import match_truth, read_scores_csv, read_truth

        path = self.scores / "submission.csv" if self.scores.is_dir() else self.scores
        scores, members = match_truth(*read_scores_csv(path), *read_truth(self.truth))
        result = figures(scores, members).to_dict()
        if self.json:
            output(json.dumps(result, indent=2))
        else:
            output(figures_table(result, f"{path}: {result['members']} members, {result['nonmembers']} non-members"))


@dataclass
class Validate:
    """Checks a submission by the rules of the course's server; exit 1 with every rule that is broken.

    Example: jaxmia validate runs/mini/submission.csv --private priv.pt
    """

    submission: Annotated[Path, tyro.conf.Positional]
    """CSV of id,score."""
    private: Path
    """File of the samples in question (priv.pt)."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Validates."""
        _no_overrides(overrides)
        from bridge.challenge import load_split
        from jaxmia.display import output
        from jaxmia.submission import validate_submission

        ids = load_split(self.private, known=False).ids
        broken = validate_submission(self.submission, ids.tolist())
        if broken:
            raise InputError("\n".join(broken))
        output(f"{self.submission}: valid, {len(ids)} rows")


@dataclass
class Demo:
    """Makes a small challenge from real images, trains a target on its members, and attacks it.

    Example: jaxmia demo --out runs/demo
    """

    out: Path = Path("runs/demo")
    """Folder of the challenge and the results."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Runs the demonstration."""
        from bridge.demo import make_demo
        from jaxmia.display import say
        from jaxmia.overrides import configure_content

        say("demo: a challenge of scikit-learn's digits, and a PyTorch target trained on its members")
        _run_all(_pipeline(configure_content(make_demo(self.out), "demo", overrides), self.out))
        Evaluate(self.out, self.out / "truth.csv")([])


COMMANDS: dict[str, type] = {
    "demo": Demo,
    "run": Run,
    "train": Train,
    "query": Query,
    "score": Score,
    "evaluate": Evaluate,
    "validate": Validate,
}

_CONFIGURED = (Demo, Run, Train, Query, Score)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0 done, 1 bad input, 2 wrong usage, 130 interrupted."""
    try:
        _main(list(sys.argv[1:] if arguments is None else arguments))
    except (InputError, UsageError) as error:
        for line in str(error).splitlines():
            print(f"jaxmia: {line}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("jaxmia: interrupted; the same command goes on from the last finished chunk", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output is gone; flushing at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _main(arguments: list[str]) -> None:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_overview())
        return
    if name == "--version":
        print(__version__)
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"{name!r} is no command; {hint}")
    from jaxmia.overrides import split_overrides

    command = COMMANDS[name]
    own, overrides = split_overrides(arguments[1:])
    if {"-h", "--help"} & set(own) and command in _CONFIGURED:
        own, command_class = ["--help"], _with_settings(command)
    else:
        command_class = command
    parsed = tyro.cli(command_class, args=own, prog=f"jaxmia {name}", description=inspect.getdoc(command))
    parsed(overrides)


def _overview() -> str:
    lines = ["usage: jaxmia COMMAND [OPTIONS]", "", "Membership inference with ensembles of shadow models.", ""]
    lines += [f"  {name:<10} {_first_line(command)}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "First: `jaxmia demo` shows the whole way in three minutes.",
        "Then:  `jaxmia run --config configs/mini.yaml --out runs/mini`, with your own files in the configuration.",
        "`jaxmia COMMAND --help` says more, with an example.",
    ]
    return "\n".join(lines)


def _first_line(command: type) -> str:
    return (inspect.getdoc(command) or "").splitlines()[0]


def _with_settings(command: type) -> type:
    """The command with every field of the configuration, for its help."""
    from jaxmia.config import Config

    settings = Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    return dataclasses.make_dataclass(
        command.__name__, [("settings", settings, dataclasses.field(default=Config()))], bases=(command,)
    )


def _configure(path: Path | None, overrides: Sequence[str]) -> "Config":
    from jaxmia.overrides import configure

    return configure(path, overrides)


def _pipeline(config: "Config", out: Path) -> "Pipeline":
    from jaxmia.display import say, watch
    from jaxmia.pipeline import Pipeline

    return Pipeline(config, out, say, watch)


def _run_all(pipeline: "Pipeline") -> None:
    pipeline.begin()
    pipeline.query()
    pipeline.train()
    _score(pipeline.out, pipeline.config)


def _score(out: Path, config: "Config") -> None:
    from jaxmia.display import figures_table, output, say
    from jaxmia.scoring import score

    metrics = score(out, config.attack, say)
    if metrics["public"]:
        output(figures_table(metrics["public"], f"{metrics['attack']} on the public samples"))


def _no_overrides(overrides: Sequence[str]) -> None:
    if overrides:
        raise UsageError(f"{overrides[0]}: this command takes no fields of the configuration")
