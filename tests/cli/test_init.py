from pathlib import Path

import pytest
import yaml

from jaxmia.cli.commands.init import Init
from jaxmia.cli.main import main
from jaxmia.config import Config, load_config, template
from jaxmia.errors import InputError, UsageError

CHALLENGE = {"public": Path("pub.pt"), "private": Path("priv.pt"), "target": Path("model.pt")}


def test_it_holds_every_field_with_its_default_below_its_description(tmp_path: Path):
    Init(tmp_path / "own.yaml")([])
    expected = Config(challenge=Config().challenge.model_copy(update=CHALLENGE))
    assert load_config(tmp_path / "own.yaml") == expected
    text = (tmp_path / "own.yaml").read_text()
    assert yaml.safe_load(text) == expected.model_dump(mode="json")
    assert "  # Number of samples in a training step of one model.\n  batch_size: 128\n" in text
    assert "  # Optimizer; sgd uses Nesterov momentum. (sgd, adamw)\n  optimizer: sgd\n" in text
    crop = "    # Largest random shift in each direction, in pixels; the border is filled with black.\n    crop: 0\n"
    assert f"  augment:\n{crop}" in text
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if line and not line.lstrip().startswith("#"):
            assert lines[place - 1].lstrip().startswith("# "), line
    assert max(len(line.replace(str(tmp_path), "")) for line in lines) <= 120


def test_fields_of_the_command_line_are_written(tmp_path: Path):
    path = tmp_path / "own.yaml"
    main(["init", str(path), "--shadow.learning_rate", "1e-7", "--challenge.public", "a b: #ü.pt", "--seed", "3"])
    written = load_config(path)
    assert (written.shadow.learning_rate, written.challenge.public, written.seed) == (1e-7, Path("a b: #ü.pt"), 3)
    with pytest.raises(UsageError, match=r"shadow\.count: 0 must be greater than or equal to 1"):
        Init(tmp_path / "other.yaml")(["--shadow.count", "0"])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["quickstart", "mini", "tml26", "demo", "demo-table", "slurm", "tml-htcondor"])
def test_what_comes_with_jaxmia_is_copied(tmp_path: Path, name: str):
    Init(tmp_path / "own.yaml", name)([])
    assert (tmp_path / "own.yaml").read_bytes() == template(name).read_bytes()


def test_what_it_cannot_do_is_told(tmp_path: Path):
    path = tmp_path / "own.yaml"
    with pytest.raises(
        InputError, match=r"'big' is not a template; templates are demo, demo-table, mini, quickstart, slurm, tml"
    ):
        Init(path, "big")([])
    with pytest.raises(UsageError, match=r"--shadow\.count: this command takes no fields"):
        Init(path, "mini")(["--shadow.count", "3"])
    path.write_text("mine")
    with pytest.raises(InputError, match=r"own\.yaml: already exists; name another file or remove it"):
        Init(path)([])
    assert path.read_text() == "mine"


def test_templates_name_no_file_that_is_not_the_user_s():
    for name in ("quickstart", "mini", "tml26", "demo"):
        section = load_config(template(name)).challenge
        assert {section.public, section.private, section.target} <= {None, *CHALLENGE.values()}


@pytest.mark.parametrize("template", ["slurm", "tml-htcondor"])
def test_the_next_command_of_a_profile_is_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str):
    main(["init", str(tmp_path / "prof.yaml"), "--template", template])
    scheduler = template.removeprefix("tml-")
    assert f"then run: jaxmia cluster {scheduler} --profile {tmp_path}/prof.yaml --config" in capsys.readouterr().out
