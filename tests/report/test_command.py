import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bridge.challenge import save_challenge
from jaxmia.cli.main import main
from jaxmia.data.pool import Pool
from jaxmia.runs.store import ScoreStore, read_chunk
from tests.report.conftest import MODELS, SAMPLES


@pytest.fixture
def challenge(run: tuple[Path, np.ndarray], tmp_path: Path) -> Path:
    """A run whose configuration names the files of its challenge."""
    out, _ = run
    pool = Pool.load(out / "pool.npz")
    images = np.random.default_rng(2).integers(0, 256, (SAMPLES, 4, 4, 1)).astype(np.uint8)
    save_challenge(Pool(images, pool.labels, pool.ids, pool.membership), tmp_path / "pub.pt", tmp_path / "priv.pt")
    (out / "config.yaml").write_text(f"challenge: {{public: {tmp_path}/pub.pt, private: {tmp_path}/priv.pt}}\n")
    return out


def report(*arguments: object) -> str:
    """What the page says."""
    main(["report", *map(str, arguments)])
    return (Path(str(arguments[1])) / "report.html").read_text()


def test_pictures_come_from_the_files_that_the_configuration_names(challenge: Path, tmp_path: Path):
    assert report("--out", challenge).count("data:image/png") == 18
    (tmp_path / "pub.pt").rename(tmp_path / "moved.pt")
    text = report("--out", challenge)
    assert "data:image/png" not in text
    assert f"{tmp_path}/pub.pt: " in text
    assert report("--out", challenge, "--challenge.public", tmp_path / "moved.pt").count("data:image/png") == 18


def test_pictures_of_other_samples_are_not_shown(challenge: Path):
    pool = Pool.load(challenge / "pool.npz")
    Pool(None, pool.labels, np.char.add(pool.ids, "x"), pool.membership).save(challenge / "pool.npz")
    text = report("--out", challenge)
    assert "data:image/png" not in text
    assert "contain other samples than" in text


def test_a_damaged_file_of_the_challenge_is_one_line(challenge: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "pub.pt").write_text("hello")
    with pytest.raises(SystemExit) as stop:
        main(["report", "--out", str(challenge)])
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        f"jaxmia: {tmp_path}/pub.pt: is cut short or not a torch.save file: expected the zip format of PyTorch since "
        "1.6\n"
    )


def test_scores_of_fewer_models_than_are_stored_are_told(run: tuple[Path, np.ndarray], capsys: pytest.CaptureFixture):
    out, _ = run
    store = ScoreStore(out / "shadows")
    last = read_chunk(store.paths()[-1])

    def told() -> list[str]:
        main(["status", str(out)])
        text = report("--out", out)
        captured = capsys.readouterr()
        everything = [*captured.out.splitlines(), *captured.err.splitlines(), *text.splitlines()]
        return [line.strip() for line in everything if re.search("scores?.* again", line)]

    assert told() == []
    store.write(replace(last, model=last.model + MODELS))
    both = MODELS + len(last.model)
    assert told() == [
        f"scores:  of {MODELS} models, not these {both}; `jaxmia score` scores again",
        f"report: the scores are of {MODELS} models, but {both} are stored; `jaxmia score` with the same --out scores "
        "again",
        f"<tr><td>shadow models</td><td>{MODELS}, but {both} are stored; score again</td></tr>",
    ]
    main(["score", "--out", str(out), "--attack.name", "loss"])
    capsys.readouterr()
    assert told() == []


def test_a_run_that_is_not_scored_is_one_line(run: tuple[Path, np.ndarray], capsys: pytest.CaptureFixture):
    (run[0] / "metrics.json").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["report", "--out", str(run[0])])
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert captured.err == f"jaxmia: {run[0]}/metrics.json: no such file; `jaxmia score --out {run[0]}` writes it\n"
    assert captured.out == ""
