import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

import jaxmia
from jaxmia.cli.main import COMMANDS, main, parse
from jaxmia.config import Config
from jaxmia.data.pool import Pool
from jaxmia.evaluation.metrics import figures
from jaxmia.leaderboard.submission import read_scores_csv
from jaxmia.models import NETWORKS
from jaxmia.runs.signals import Interrupted


def call(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refusal(capsys: pytest.CaptureFixture, *arguments: object, code: int) -> str:
    """The one line on the standard error of a command that fails with `code`."""
    found, out, err = call(capsys, *arguments)
    assert found == code
    assert out == ""
    assert re.fullmatch(r"jaxmia: .+\n", err)
    return err.removeprefix("jaxmia: ").removesuffix("\n")


def truth_csv(path: Path, ids: np.ndarray, members: np.ndarray) -> Path:
    rows = [f"{id_},{int(member)}" for id_, member in zip(ids, members, strict=True)]
    path.write_text("\n".join(["id,membership", *rows]) + "\n")
    return path


def test_the_overview_names_every_command_and_what_to_do_first(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        code, out, _ = call(capsys, *arguments)
        assert code == 0
        assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in COMMANDS)
        assert "jaxmia demo" in out


def test_the_version(capsys):
    assert call(capsys, "--version") == (0, jaxmia.__version__ + "\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(capsys, name: str):
    code, out, err = call(capsys, name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: jaxmia {name}")
    assert f"Example: jaxmia {name}" in out


@pytest.mark.parametrize("name", ["demo", "run", "train", "query", "score", "doctor"])
@pytest.mark.parametrize("before", [[], ["--shadow.count", "3"]])
def test_help_names_the_fields_of_the_configuration(capsys, name: str, before: list[str]):
    for flag in ("--help", "-h"):
        code, out, _ = call(capsys, name, *before, flag)
        assert code == 0
        assert "--shadow.label-smoothing" in out
        assert "Probability mass of the label that is spread evenly" in out


def test_help_lists_every_field_of_the_configuration(capsys):
    _, out, _ = call(capsys, "run", "--help")
    names = set(re.findall(r"--([\w.-]+)", out))
    assert {name.replace("_", "-") for name in _fields(Config())} <= names


def _fields(section: BaseModel) -> list[str]:
    """Names of all fields that hold a value, such as `match.augment`."""
    return [
        f"{name}.{inner}" if inner else name
        for name, value in section
        for inner in (_fields(value) if isinstance(value, BaseModel) else [""])
    ]


def test_help_of_the_demo_shows_the_demo_s_defaults(capsys):
    _, out, _ = call(capsys, "demo", "--help")
    assert re.search(r"--shadow\.epochs[^-]*\(default: 25\)", out)
    assert re.search(r"--shadow\.architecture[^-]*\(default: cnn\)", out)


def test_help_lists_the_networks(capsys):
    _, out, _ = call(capsys, "run", "--help")
    for section in ("challenge", "shadow"):
        choices = "".join(out.partition(f"--{section}.architecture")[2].partition("(default")[0].split())
        assert all(name in choices for name in NETWORKS)


def test_a_misspelled_command_is_told_the_right_one(capsys):
    assert refusal(capsys, "evalute", code=2) == "'evalute' is not a command; did you mean 'evaluate'?"
    assert refusal(capsys, "xyz", code=2).startswith("'xyz' is not a command; commands are ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("train --config a --out b --shrad 0/1", "train: --shrad: unknown option; did you mean '--shard'?"),
        ("run --confg=a", "run: --confg: unknown option; did you mean '--config'?"),
        ("run --quite", "run: --quite: unknown option; did you mean '--quiet'?"),
        ("run --sed 3", "run: --sed: unknown option; did you mean '--seed'?"),
        (
            "score --epochs=3",
            "score: --epochs: unknown option; options are --config, --help, --json, --out, --quiet, --section.field",
        ),
        ("status --zzz", "status: --zzz: unknown option; options are --help, --json, --quiet"),
        ("train", "train: --out missing; as in jaxmia train --config own.yaml --out "),
        ("run --config a.yaml", "run: --out missing; as in jaxmia run --config own.yaml --out "),
        ("evaluate --truth t", "evaluate: PATH missing; as in jaxmia evaluate runs/demo --truth runs/demo/truth.csv"),
        ("evaluate a b --truth t", "evaluate: 'b': one argument too many; as in jaxmia evaluate runs/demo --truth "),
        ("evaluate a --truth t --json 1", "evaluate: '1': one argument too many; as in jaxmia evaluate "),
        (
            "leaderboard --private a --truth b --port x",
            "leaderboard: --port: not an integer: 'x'; as in jaxmia leaderboard ",
        ),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_is_right(capsys, arguments: str, line: str):
    assert refusal(capsys, *arguments.split(), code=2).startswith(line)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("evaluate a --truth", ("evaluate: ", "--truth", "as in jaxmia evaluate ")),
        ("completion fish", ("completion: ", "'fish'", "'bash', 'zsh'")),
        ("bench --shape 1 2 x", ("bench: --shape: ", "'1', '2', 'x'")),
    ],
)
def test_what_the_parser_says_is_one_line_that_names_the_command_and_the_value(capsys, arguments: str, words: tuple):
    line = refusal(capsys, *arguments.split(), code=2)
    assert all(word in line for word in words)


@pytest.mark.skipif(not shutil.which("script"), reason="needs a terminal to pretend")
def test_wrong_usage_is_the_same_line_on_a_terminal():
    command = f'"{sys.executable}" -m jaxmia completion fish'
    done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith("jaxmia: completion: ") and "'fish'" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_underscores_serve_as_hyphens():
    command, overrides = parse(["submit", "s.csv", "--private", "p.pt", "--dry_run"])
    assert vars(command)["dry_run"]
    assert not overrides


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--shadow.cuont", "3"], "command line: shadow.cuont: unknown key; did you mean 'count'?"),
        (["--shadow.count", "0"], "command line: shadow.count: 0 must be greater than or equal to 1"),
        (["--shadow.count"], "--shadow.count: expected a value"),
    ],
)
def test_a_bad_field_on_the_command_line_is_wrong_usage(capsys, tmp_path: Path, arguments: list[str], line: str):
    (tmp_path / "a.yaml").write_text("")
    command = ["run", "--config", tmp_path / "a.yaml", "--out", tmp_path / "out", *arguments]
    assert refusal(capsys, *command, code=2) == line
    assert not (tmp_path / "out").exists()


def test_a_bad_field_in_the_file_is_bad_input(capsys, tmp_path: Path):
    (tmp_path / "a.yaml").write_text("shadow: {cuont: 3}")
    for name in ("run", "train", "query"):
        line = refusal(capsys, name, "--config", tmp_path / "a.yaml", "--out", tmp_path / "out", code=1)
        assert line == f"{tmp_path}/a.yaml: shadow.cuont: unknown key; did you mean 'count'?"
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_there_are_bad_input(capsys, tmp_path: Path):
    (tmp_path / "a.yaml").write_text("challenge: {public: pub.pt, private: priv.pt, target: model.pt}")
    options = ["--config", tmp_path / "a.yaml", "--out", tmp_path / "out"]
    assert "no such file" in refusal(capsys, "run", *options, "--challenge.target", tmp_path / "none.pt", code=1)
    (tmp_path / "empty.yaml").write_text("")
    line = refusal(capsys, "query", "--config", tmp_path / "empty.yaml", "--out", tmp_path / "out", code=1)
    assert re.match(r"challenge\.\w+: not set; give the file in --config .* or with --challenge\.\w+ FILE", line)


@pytest.mark.parametrize("shard", ["", "3", "4/3", "-1/3", "a/b", "1/0", "1/2/3", "1.0/2"])
def test_a_bad_shard_is_named(capsys, shard: str):
    found, _, err = call(capsys, "train", "--config", "a.yaml", "--out", "b", f"--shard={shard}")
    assert found in (1, 2)
    assert f"{shard!r} is not I/N" in err


def test_score_and_evaluate_matrices_made_elsewhere(capsys, planted: tuple[Path, np.ndarray], tmp_path: Path):
    out, members = planted
    code, shown, _ = call(capsys, "score", "--out", out, "--attack.name", "lira-online-tied", "--attack.fpr", "0.1")
    assert code == 0
    assert "lira-online-tied on the public samples" in shown
    assert "TPR at 10 % FPR" in shown

    pool = Pool.load(out / "pool.npz")
    private = ~pool.public
    truth = truth_csv(tmp_path / "truth.csv", pool.ids[private], members[private])
    expected = figures(read_scores_csv(out / "submission.csv")[1], members[private]).to_dict()
    for source in (out, out / "submission.csv"):
        code, shown, _ = call(capsys, "evaluate", source, "--truth", truth, "--json")
        assert code == 0
        assert json.loads(shown) == json.loads(json.dumps(expected))
    code, shown, _ = call(capsys, "evaluate", out, "--truth", truth)
    assert code == 0
    assert f"{expected['auc']['value']:.4f}" in shown
    assert f"{members[private].sum()} members" in shown

    some = truth_csv(tmp_path / "some.csv", pool.ids[private][:-3], members[private][:-3])
    code, _, told = call(capsys, "evaluate", out, "--truth", some)
    assert code == 0
    count = private.sum()
    assert f"{out}/submission.csv: 3 of its {count:,} scores are left out: their ids are not in {some}" in told


def test_a_runs_own_configuration_is_used_unless_another_is_given(capsys, planted: tuple[Path, np.ndarray]):
    out, _ = planted
    (out / "config.yaml").write_text("attack: {name: margin}\n")
    (out / "other.yaml").write_text("attack: {name: loss}\n")
    assert "margin on the public" in call(capsys, "score", "--out", out)[1]
    assert "loss on the public" in call(capsys, "score", "--out", out, "--config", out / "other.yaml")[1]
    assert "docs/attacks.md" in refusal(capsys, "score", "--out", out, "--attack.name", "xyz", code=2)


def test_what_is_missing_is_one_line(capsys, planted: tuple[Path, np.ndarray], tmp_path: Path):
    out, _ = planted
    assert refusal(capsys, "score", "--out", tmp_path / "none", code=1).endswith("none: no such folder")
    line = refusal(capsys, "evaluate", out, "--truth", tmp_path / "t.csv", code=1)
    assert line == f"{out}: has no submission.csv; jaxmia score --out {out} writes it once models are trained"
    (tmp_path / "s.csv").write_text("id,score\na,1\nb,0\n")
    assert "t.csv: cannot be read" in refusal(
        capsys, "evaluate", tmp_path / "s.csv", "--truth", tmp_path / "t.csv", code=1
    )
    truth = truth_csv(tmp_path / "t.csv", np.array(["a", "c"]), np.array([1, 0]))
    assert f"t.csv: 1 of its 2 ids have no score in {tmp_path}/s.csv: 'c'" in refusal(
        capsys, "evaluate", tmp_path / "s.csv", "--truth", truth, code=1
    )


def test_score_says_which_command_writes_what_is_missing(capsys, planted: tuple[Path, np.ndarray]):
    out, _ = planted
    for name in ("target.npz", "pool.npz"):
        (out / name).unlink()
        line = refusal(capsys, "score", "--out", out, code=1)
        said = f"no such file; jaxmia query --out {out} with the configuration of the run writes it"
        assert line == f"{out / name}: {said}"


def test_what_was_fused_is_not_scored_itself(capsys, planted: tuple[Path, np.ndarray], tmp_path: Path):
    out, _ = planted
    for again in (out, shutil.copytree(out, tmp_path / "again")):
        call(capsys, "score", "--out", again, "--attack.name", "margin")
    call(capsys, "fuse", out, tmp_path / "again", "--out", tmp_path / "fused")
    line = refusal(capsys, "score", "--out", tmp_path / "fused", code=1)
    assert line.endswith(f"was fused from {out}, {tmp_path / 'again'}; score these and fuse them again")


def test_an_audit_s_directory_is_evaluated_by_its_own_figures(capsys, planted: tuple[Path, np.ndarray]):
    out, members = planted
    Pool(None, np.zeros(400, int), np.arange(400).astype(str), members.astype(np.int8)).save(out / "pool.npz")
    call(capsys, "score", "--out", out, "--attack.name", "margin")
    line = refusal(capsys, "evaluate", out, "--truth", out / "truth.csv", code=1)
    assert line == (
        f"{out}: has no submission.csv, as no membership was unknown (as in an audit); its figures are in "
        f"{out / 'metrics.json'}, and jaxmia report --out {out} shows them"
    )


@pytest.mark.parametrize("command", ["run", "train", "query", "match", "audit"])
def test_a_wrong_path_is_refused_before_jax_or_torch_are_imported(command: str, tmp_path: Path):
    (tmp_path / "p.pt").write_bytes(b"")
    arguments = [command, "--out", "o", "--challenge.public", "p.pt", "--challenge.private", "p.pt"]
    code = (
        "import sys, jaxmia.cli.main\n"
        f"try: jaxmia.cli.main.main({[*arguments, '--challenge.target', 'wrong.pt']})\n"
        "finally: print(sorted({'jax', 'torch', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("[]\n", "jaxmia: wrong.pt: no such file (challenge.target)\n")


def test_a_command_without_configuration_takes_no_fields(capsys, tmp_path: Path):
    line = refusal(capsys, "evaluate", tmp_path, "--truth", tmp_path, "--shadow.count", "3", code=2)
    assert line == "--shadow.count: this command takes no fields of the configuration"


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(capsys, planted: tuple[Path, np.ndarray], monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxmia.pipeline.scoring.score", interrupted)
    assert "the same command resumes" in refusal(capsys, "score", "--out", planted[0], code=130)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted(signal.SIGTERM)])
def test_an_interrupted_dry_run_has_nothing_to_resume(capsys, tmp_path: Path, monkeypatch, stop: KeyboardInterrupt):
    def interrupted(*arguments: object, **options: object) -> None:
        raise stop

    monkeypatch.setattr("jaxmia.cli.overrides.configure_run", interrupted)
    line = refusal(capsys, "audit", "--out", tmp_path, "--dry-run", code=130)
    assert line == ("stopped by SIGTERM" if isinstance(stop, Interrupted) else "interrupted")
    assert line + "; the same command resumes" == refusal(capsys, "audit", "--out", tmp_path, code=130)


def test_a_real_interrupt_leaves_no_traceback(tmp_path: Path):
    """SIGINT to a process that waits for its input, a named pipe to which nothing is written."""
    os.mkfifo(tmp_path / "truth.csv")
    (tmp_path / "s.csv").write_text("id,score\na,1\n")
    command = [sys.executable, "-m", "jaxmia", "evaluate", tmp_path / "s.csv", "--truth", tmp_path / "truth.csv"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with (tmp_path / "truth.csv").open("wb"):  # opens once the reader is there
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("jaxmia: interrupted") and len(err.splitlines()) == 1


def test_output_to_a_closed_pipe_is_no_traceback():
    command = f'"{sys.executable}" -m jaxmia run --help | true'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("asked", [["--help"], ["run", "--help"], ["validate", "--help"]])
def test_help_needs_neither_jax_nor_torch(asked: list[str]):
    code = (
        "import sys, jaxmia.cli.main\n"
        f"try: jaxmia.cli.main.main({asked})\n"
        "finally: print(sorted({'jax', 'torch', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
