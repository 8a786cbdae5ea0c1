import base64
import html
import io
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from matplotlib.image import imread

from jaxmia.config import AttackConfig
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.files import load_npz
from jaxmia.pipeline.scoring import score
from jaxmia.report import write_report
from jaxmia.report.likeness import compare
from jaxmia.runs.matrices import read_matrices
from tests.conftest import Records, log_records, telling
from tests.report.conftest import SAMPLES, change_metrics, make_run, write_truth


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and text with plain spaces."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\N{NO-BREAK SPACE}", " ") + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, Records]:
    """The report of a run with everything: selection, records, configuration, truth, images."""
    out = tmp_path_factory.mktemp("full")
    members = make_run(out, 1.5, name="auto", recorded=True)
    (out / "config.yaml").write_text("shadow: {epochs: 3}  # <b>\n")
    images = np.random.default_rng(0).integers(0, 256, (SAMPLES, 5, 4, 3)).astype(np.uint8)
    with log_records() as records:
        write_report(out, truth=write_truth(out / "truth.csv", out, members), images=images, paper=True)
    return out, images, records


@pytest.fixture(scope="module")
def page(full: tuple[Path, np.ndarray, Records]) -> Page:
    return Page((full[0] / "report.html").read_text())


def test_the_page_needs_no_network_no_script_and_no_other_file(full, page: Page):
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    text = (full[0] / "report.html").read_text()
    assert "://" not in text
    assert "@import" not in text
    assert (full[0] / "report.html").stat().st_size < 5e6


def test_what_figures_refer_to_is_there_once(full, page: Page):
    text = (full[0] / "report.html").read_text()
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    assert referred
    assert referred <= set(ids)


def test_figures_take_the_colours_of_light_and_dark(page: Page):
    drawn = [
        attributes.get("style") or "" for tag, attributes in page.tags if tag in ("path", "use", "text", "g", "rect")
    ]
    assert {colour for style in drawn for colour in re.findall(r"#[0-9a-fA-F]{3,8}\b", style)} == set()
    assert any("currentColor" in style for style in drawn)
    assert any("var(--in)" in style for style in drawn)
    assert all(attributes.get("aria-label") for attributes in page.all("svg"))


def test_every_section_has_its_data(page: Page):
    assert "Not shown" not in page.text
    assert len(page.all("figure")) == 9
    assert "slide rule" in page.text
    # 400 samples, half of them IN, 8 models, 3 epochs, 2 chunks of 10 s
    speed = re.search(r"slide rule\s+12\s+8\s+20\.0 s\s+(\d+)\s+2,160", page.text)
    assert speed
    assert int(speed[1]) == pytest.approx(8 * 3 * 200 / 10, rel=0.05)


def test_nothing_of_the_data_becomes_markup(full, page: Page):
    assert "s<" in page.text
    assert "# <b>" in page.text
    assert not [tag for tag, _ in page.tags if re.fullmatch(r"\d+", tag)]
    raw = (full[0] / "report.html").read_text()
    assert not re.search(r"s<\d", raw)


def test_no_line_breaks_between_a_number_and_its_percent_sign(full):
    page = re.sub(r"(?s)<svg.*?</svg>", "", (full[0] / "report.html").read_text())
    assert page.count("\N{NO-BREAK SPACE}%") + page.count("&nbsp;%") > 10
    assert not re.search(r"\d %", page)


def test_pictures_are_those_of_the_widest_gaps_and_of_the_highest_and_lowest_scores(full, page: Page):
    out, images, _ = full
    pool = Pool.load(out / "pool.npz")
    scores = load_npz(out / "scores.npz")
    chosen = re.search(r"Attack\s+(\S+), selected on \d+ shadow models as pseudo-targets", page.text)
    assert chosen
    order = np.argsort(-scores[chosen[1]], kind="stable")
    matrices = read_matrices(out)
    phi, mask = matrices.shadows.phi[:, 0].astype(float), matrices.shadows.mask
    sides = [np.ma.array(phi, mask=hidden) for hidden in (~mask, mask)]
    gaps = (sides[0].mean(0) - sides[1].mean(0)) / np.sqrt((sides[0].var(0, ddof=1) + sides[1].var(0, ddof=1)) / 2)
    expected = [*np.argsort(-gaps.filled(-np.inf))[:6], *order[:6], *order[::-1][:6]]
    kinds = r"Most vulnerable: the widest gaps.*Surest members: the highest.*Surest non-members: the lowest scores"
    assert re.search(kinds, page.text, re.DOTALL)
    shown = page.all("img")
    assert [html.unescape(attributes["alt"] or "") for attributes in shown] == [
        f"sample {pool.ids[sample]}" for sample in expected
    ]
    for attributes, sample in zip(shown, expected, strict=True):
        data = base64.b64decode((attributes["src"] or "").removeprefix("data:image/png;base64,"))
        np.testing.assert_allclose(imread(io.BytesIO(data))[..., :3] * 255, images[sample], atol=0.6)


def test_figures_are_files_fit_for_a_paper(full):
    out, _, records = full
    names = {path.stem for path in (out / "figures").glob("*.png")}
    assert names == {
        *("verdict", "roc", "attacks", "gain", "classes", "margins", "likeness", "vulnerable", "accuracy", "loss")
    }
    assert names == {path.stem for path in (out / "figures").glob("*.pdf")}
    for name in names:
        height, width, _ = imread(out / "figures" / f"{name}.png").shape
        assert width == 1020  # 3.4 inches at 300 dots an inch
        assert 300 < height < 1500
    tables = out / "figures" / "tables.tex"
    assert telling(records, *map(str, (out / "report.html", out / "figures", tables))) == ["INFO"]


def test_the_table_in_latex_is_sound(full):
    text = _tables(full[0])
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    assert not re.search(r"(?<!\\)[%#_$]", text.split("\n", 1)[1])
    columns = [len(spec) for spec in re.findall(r"begin\{tabular\}\{(l+r*p?)(?:\{[.\d]+\\linewidth\})?\}\n", text)]
    assert len(columns) == 3
    assert {line.count(" & ") + 1 for line in body} == set(columns)
    assert r"TPR at 5 \% FPR" in text
    assert text.count(r"\textbf") == 3


def test_each_table_in_latex_tells_its_rate_and_can_be_referred_to(full):
    text = _tables(full[0])
    floats = text.split(r"\begin{table}")[1:]
    assert len(floats) == text.count(r"\end{table}") == 3
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:verdict", "tab:figures", "tab:attacks"]
    for one in floats:
        assert re.search(r"\\caption\{.*95 \\% intervals.*\}\n", one)
    heads = [re.findall(r"\\toprule\n(.*)", one)[0] for one in floats]
    assert heads[0] == r" & TPR at 5 \% FPR & 95 \% interval & measured on \\"
    assert heads[2] == r"attack, TPR at 5 \% FPR & pseudo-targets & public samples \\"


def test_the_target_is_compared_with_its_shadows_once(run: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch):
    compared = Mock(wraps=compare)
    monkeypatch.setattr("jaxmia.report.page.compare", compared)
    write_report(run[0])
    compared.assert_called_once()


@pytest.mark.parametrize("lower", [0.75, None])
def test_the_bound_on_epsilon_stands_in_the_table_in_latex(run, lower: float | None):
    change_metrics(run[0], epsilon={"lower": lower, "delta": 1e-5, "confidence": 0.95, "reason": None})
    write_report(run[0], paper=True)
    told = re.findall(r"\\caption\{.*epsilon is at least (.*) at delta 1e-05, with 95 \\% confidence", _tables(run[0]))
    assert told == ([] if lower is None else ["0.750"])


def _tables(out: Path) -> str:
    return (out / "figures/tables.tex").read_text()


def test_matrices_alone_are_enough_and_what_is_missing_is_said(run: tuple[Path, np.ndarray]):
    out, _ = run
    page = Page(write_report(out).read_text())
    assert "the files of the shadows contain no training curves" in page.text
    assert "do not record the training time" in page.text
    assert "The run directory has no images" in page.text
    assert "The run directory has no configuration" in page.text
    assert not page.all("img")
    assert not list((out / "figures").glob("*.pdf"))


def test_without_public_labels_the_shadows_still_answer(run: tuple[Path, np.ndarray]):
    out, _ = run
    pool = Pool.load(out / "pool.npz")
    Pool(None, pool.labels, pool.ids, np.full(SAMPLES, -1, np.int8)).save(out / "pool.npz")
    change_metrics(out, public=None)
    page = Page(write_report(out).read_text())
    assert "the attack is expected to identify" in page.text
    assert "this needs public members and public non-members" in page.text
    assert "no class has a public member and the required 20 public non-members" in page.text


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["all OUT", "all IN"])
def test_shadows_of_one_side_only_are_shown_for_what_they_are(run: tuple[Path, np.ndarray], share: float):
    """Also with a target whose margins are far from all of theirs."""
    out, _ = run
    for path in (out / "shadows").glob("*.npz"):
        arrays = load_npz(path)
        np.savez(path, **{**arrays, "mask": np.full_like(arrays["mask"], share == 1.0)})
    np.savez(out / "target.npz", phi=load_npz(out / "target.npz")["phi"] + 1000)
    score(out, AttackConfig(name="margin"))
    page = Page(write_report(out).read_text())
    assert "every shadow was trained on all samples or on none" in page.text
    assert "this needs at least five shadows" in page.text
    assert "of the public members; random guessing identifies 5 %" in page.text


def test_features_are_not_shown_as_pictures(run: tuple[Path, np.ndarray]):
    """Also those that come as images of one row."""
    rng = np.random.default_rng(4)
    for features in (rng.normal(size=(SAMPLES, 1, 30, 1)), rng.normal(size=(SAMPLES, 30))):
        page = Page(write_report(run[0], images=features).read_text())
        assert not page.all("img")
        assert "has no images" not in page.text
        assert not (run[0] / "figures" / "vulnerable.png").exists()


def test_a_rate_that_allows_no_false_positive_is_not_shown(tmp_path: Path):
    make_run(tmp_path, 1.5, fpr=0.0001)
    page = Page(write_report(tmp_path).read_text())
    assert "How strong the attack is at a false positive rate of 0.01 % could not be measured." in page.text
    assert "no attack could be measured at a false positive rate of 0.01 %" in page.text
    assert re.search(r"Not shown: 0\.01 % of \d+ non-members is less than one sample", page.text)
    assert not re.search(r"TPR at 0\.01 % FPR\s+0\.", page.text)


def test_no_sample_stands_out_by_guessing(tmp_path: Path):
    make_run(tmp_path, 0.0)
    images = np.zeros((SAMPLES, 4, 4, 1), np.uint8)
    page = Page(write_report(tmp_path, images=images).read_text())
    assert re.search(
        r"Not shown: the attack cannot be told from guessing: AUC 0\.\d{3} on the public samples", page.text
    )
    assert "ulnerable" not in page.text
    assert not page.all("img")


def test_captions_say_what_is_left_out_and_why(run: tuple[Path, np.ndarray]):
    """One class has 15 public non-members, of which 5 % is no false positive."""
    out, members = run
    pool = Pool.load(out / "pool.npz")
    labels = np.where(np.arange(SAMPLES) % 2, 1, 2).astype(np.int32)
    labels[np.flatnonzero(~members)[:15]] = 0
    labels[np.flatnonzero(members)[:40]] = 0
    Pool(None, labels, pool.ids, pool.membership).save(out / "pool.npz")
    text = Page(write_report(out).read_text()).text
    assert "1 of 3 classes are left out: they have no public member or fewer than 20 public non-members" in text
    attacks = len(load_npz(out / "scores.npz"))
    assert f"Of {attacks} attacks, the 12 with the highest TPR and the highlighted one are drawn" in text


def test_other_images_are_refused_before_anything_is_written(run: tuple[Path, np.ndarray]):
    out, _ = run
    with pytest.raises(InputError, match=r"images: got 3, but .*pool\.npz has 400 samples"):
        write_report(out, images=np.zeros((3, 4, 4, 1), np.uint8))
    assert not (out / "report.html").exists()
    assert not (out / "figures").exists()


def test_half_a_character_in_an_id_is_named_and_nothing_is_written(run: tuple[Path, np.ndarray]):
    out, _ = run
    pool = Pool.load(out / "pool.npz")
    Pool(None, pool.labels, np.array([f"\ud800{name}" for name in pool.ids]), pool.membership).save(out / "pool.npz")
    with pytest.raises(InputError, match=r"report.html: not written: its text contains '\\ud800', which UTF-8"):
        write_report(out)
    assert not (out / "report.html").exists()


def test_settings_of_matplotlib_in_the_working_directory_change_no_figure(run: tuple[Path, np.ndarray], tmp_path: Path):
    """LaTeX that they ask for would run, or not be there."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "matplotlibrc").write_text("text.usetex: True\naxes.facecolor: red\n")
    code = (
        "import sys; from pathlib import Path; from jaxmia.report import write_report; write_report(Path(sys.argv[1]))"
    )
    figures = []
    for where in (folder, tmp_path):
        subprocess.run([sys.executable, "-c", code, str(run[0])], cwd=where, check=True)
        figures.append((run[0] / "figures" / "roc.png").read_bytes())
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"targets": 10**300}, r"private.targets: 1000.* must be less than or equal to"),
        ({"low": 1e308}, r"private.low: 1e\+308 must be less than or equal to 1"),
        ({"value": -1e308}, r"private.value: -1e\+308 must be greater than or equal to 0"),
    ],
)
def test_a_promise_that_is_none_is_refused(run: tuple[Path, np.ndarray], changes: dict, complaint: str):
    out, _ = run
    promise = {"fpr": 0.05, "samples": 10, "targets": 3, "value": 0.5, "low": 0.4, "high": 0.6}
    change_metrics(out, private={**promise, **changes})
    with pytest.raises(InputError, match=rf"metrics.json: {complaint}"):
        write_report(out)


def test_of_thousands_of_attacks_the_first_ones_are_measured(run: tuple[Path, np.ndarray]):
    out, _ = run
    scores = load_npz(out / "scores.npz")
    (chosen,) = (value for name, value in scores.items() if name == "lira-online-global")
    made_elsewhere = {f"attack {number}": chosen + number for number in range(3000 - len(scores))}
    np.savez(out / "scores.npz", **made_elsewhere, **scores)
    before = time.process_time()
    write_report(out)
    assert time.process_time() - before < 25
    page = Page((out / "report.html").read_text())
    assert "2,744 of the 3,000 attacks were not measured on the public samples." in page.text
    assert "lira-online-global" in page.text
