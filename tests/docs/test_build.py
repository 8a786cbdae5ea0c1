import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(module, reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return folder


@pytest.mark.slow
def test_a_page_loads_nothing_from_elsewhere(site: Path):
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r"""<(script|img|iframe)[^>]* src=["']?(https?:)?//""", text), page
        assert not re.search(r"""<link[^>]* rel=["']?(stylesheet|preconnect)[^>]*(https?:)?//""", text), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()[^;)]*https?://", sheet.read_text()), sheet


@pytest.mark.slow
def test_formulas_pictures_results_and_reference_are_there(site: Path):
    attacks = (site / "attacks.html").read_text()
    assert "<math" in attacks
    assert "$" not in re.sub(r"<(script|code)\b.*?</\1>", "", attacks, flags=re.DOTALL)
    for name in re.findall(r'src="(pictures/[^"]+)"', attacks):
        assert (site / name).read_text().rstrip().endswith("</svg>")
    assert attacks.count('src="pictures/') == 5
    for path in (ROOT / "benchmarks/results").glob("*.md"):
        page = f"results/{path.stem}.html"
        assert page in attacks or page in (site / "throughput.html").read_text()
    assert "make_demo" in (site / "library.html").read_text()  # the example is included
    reference = (site / "reference.html").read_text()
    for name in ("jaxmia.api.train_shadows", "jaxmia.evaluation.metrics.tpr_at_fpr", "bridge.challenge.save_challenge"):
        assert f'id="{name}"' in reference
