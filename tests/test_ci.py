"""`.ci/run` fails where any of its parts fails, and shows what each of them says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci/run"
MAKE = """#!/bin/sh
for word; do
  case $word in -*) continue ;; esac
  echo "$word was made"
  echo "$word" >> made
  [ "$word" != "$BROKEN" ] || exit 2
done
"""


def run_ci(folder: Path, broken: str) -> subprocess.CompletedProcess[str]:
    """Runs `.ci/run` where one target of `make` fails."""
    for path, text in (("bin/make", MAKE), (".ci/slurm", "#!/bin/sh\n"), (".ci/run", RUN.read_text())):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
        (folder / path).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "BROKEN": broken}
    return subprocess.run([folder / ".ci/run"], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("broken", ["none", "install", "lint", "docs", "test"])
def test_a_run_fails_where_a_part_of_it_fails(broken: str, tmp_path: Path):
    done = run_ci(tmp_path, broken)
    assert (done.returncode != 0) == (broken != "none")
    made = (tmp_path / "made").read_text().split()
    assert made[0] == "install"
    if broken == "install":
        assert made == ["install"]
    else:
        assert {"lint", "test"} <= set(made)
        assert done.stdout.index("test was made") < done.stdout.index("lint was made"), "the tests come first"
