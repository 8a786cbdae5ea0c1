"""What docs/cluster.md and the profiles say, held against the code."""

import json
import re
from pathlib import Path

import pytest

from jaxmia.cli.main import main
from jaxmia.cluster.htcondor import HTCondorProfile
from jaxmia.cluster.profile import load_profile
from jaxmia.cluster.slurm import SlurmProfile

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/cluster.md").read_text()


def table() -> dict[str, str]:
    """The table of the profile: fields and their defaults."""
    part = DOCUMENT.split("## The profile")[1].split("\n## ")[0]
    rows = (line.split("|")[1:3] for line in part.splitlines() if line.startswith("| `"))
    return {
        field: default.strip()
        for names, defaults in rows
        for field, default in zip(
            re.findall(r"`(\w+)`", names), defaults.split(",") + [""] * names.count("`"), strict=False
        )
    }


def test_every_field_is_documented_and_no_other():
    fields = {*HTCondorProfile.model_fields, *SlurmProfile.model_fields} - {"scheduler"}
    assert table().keys() == fields


def test_documented_defaults_are_the_defaults():
    defaults = {**HTCondorProfile().model_dump(), **SlurmProfile().model_dump(), "command": None}
    stated = {field: text for field, text in table().items() if text and field != "command"}
    assert stated == {field: str(defaults[field]) for field in stated}
    assert {"gpus", "cpus", "memory_gb", "vacate_seconds", "retries", "minutes", "universe"} <= stated.keys()


def test_every_file_it_names_is_there():
    for name in set(re.findall(r"configs/cluster/[\w.-]+", DOCUMENT)):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^jaxmia cluster .*$", DOCUMENT, flags=re.M))))
def test_its_commands_write_job_files(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = line.split()[1:]
    files = {name: str(tmp_path / f"{name}.pt") for name in ("public", "private", "target")}
    for file in files.values():
        Path(file).touch()
    (tmp_path / "config.yaml").write_text(json.dumps({"shadow": {"count": 64}, "challenge": files}))
    words[words.index("--config") + 1] = str(tmp_path / "config.yaml")
    words[words.index("--out") + 1] = str(tmp_path / "run")
    profile = words.index("--profile") + 1
    words[profile] = str(ROOT / words[profile].replace("mine.yaml", "configs/cluster/slurm.yaml"))
    main(words)
    submit = {"slurm": f"{tmp_path}/run/cluster/submit.sh", "htcondor": "condor_submit_dag "}[words[1]]
    assert submit in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "configs/cluster").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_profiles_load_and_name_themselves(path: Path):
    text = path.read_text()
    kind = HTCondorProfile if "scheduler: htcondor" in text else SlurmProfile
    load_profile(path, kind)
    assert f"--profile configs/cluster/{path.name}" in text


def test_commented_out_lines_of_the_slurm_profile_are_right_as_well(tmp_path: Path):
    text = (ROOT / "configs/cluster/slurm.yaml").read_text()
    (tmp_path / "all.yaml").write_text(re.sub(r"^# (?=\w+:|  - )", "", text, flags=re.M))
    profile = load_profile(tmp_path / "all.yaml", SlurmProfile)
    assert (profile.partition, profile.gpu_type, profile.setup) == ("gpu", "a100", ("module load cuda",))


@pytest.mark.parametrize(
    ("challenge", "message"),
    [("{}", "challenge.public: not set"), ("{public: pub.pt}", "pub.pt: no such file (challenge.public)")],
)
def test_jobs_that_could_only_fail_are_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], challenge: str, message: str
):
    (tmp_path / "config.yaml").write_text(f"challenge: {challenge}")
    with pytest.raises(SystemExit, match="1"):
        main(["cluster", "slurm", "--config", f"{tmp_path}/config.yaml", "--out", f"{tmp_path}/run", "--jobs", "2"])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
