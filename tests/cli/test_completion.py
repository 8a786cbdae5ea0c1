import shutil
import subprocess

import pytest

from jaxmia.cli import main as command_line
from jaxmia.cli.main import COMMANDS, main
from tests.warm import warm_python


@pytest.fixture(scope="module")
def script() -> str:
    command = [warm_python(), "-m", "jaxmia", "completion", "bash"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["eval"], {"evaluate"}),
        (["evaluate", "--tr"], {"--truth"}),
        (["train", "--shadow.lab"], {"--shadow.label-smoothing"}),
        (["score", "--qui"], {"--quiet"}),
        (["run", "--challenge.backend", "to"], {"torch"}),
    ],
)
def test_bash_completes_commands_options_fields_and_choices(script: str, words: list[str], offered: set[str]):
    listed = " ".join(f"'{word}'" for word in ["jaxmia", *words])
    ask = f"COMP_WORDS=({listed}); COMP_CWORD={len(words)}; _tyro_jaxmia; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash"], input=f"{script}\n{ask}", capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered


def test_zsh_gets_a_script_of_its_own_and_other_shells_a_refusal(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["completion", "zsh"])
    assert stop.value.code in (0, None)
    assert capsys.readouterr().out.startswith("#compdef jaxmia")
    with pytest.raises(SystemExit) as stop:
        main(["completion", "powershell"])
    assert stop.value.code == 2


def test_the_overview_fits_a_small_terminal(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert command_line._SUMMARIES.keys() >= COMMANDS.keys()


def test_quiet_leaves_results_and_errors_only(planted):
    out, _ = planted
    command = [warm_python(), "-m", "jaxmia", "score", "--out", str(out), "--attack.name", "margin"]
    loud = subprocess.run(command, capture_output=True, text=True, check=True)
    silent = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=True)
    assert "submission: 200 rows" in loud.stderr
    assert silent.stderr == ""
    assert silent.stdout == loud.stdout
    assert "\x1b" not in loud.stdout + loud.stderr
    refused = subprocess.run([*command, "--quiet", "--sed", "3"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr
