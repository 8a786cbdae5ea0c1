from pathlib import Path

import pytest

from jaxmia.cluster.htcondor import HTCondorProfile
from jaxmia.cluster.profile import load_profile
from jaxmia.cluster.slurm import SlurmProfile
from jaxmia.errors import InputError


def test_course_profile_says_what_the_course_asks(course: HTCondorProfile):
    assert course.universe == "docker"
    assert course.requirements == 'UidDomain == "cs.uni-saarland.de"'
    assert course.attributes == {"WantGPUHomeMounted": "true", "WantScratchMounted": "true"}
    assert course.should_transfer_files == "YES"


def test_an_empty_profile_is_the_defaults(tmp_path: Path):
    (tmp_path / "p.yaml").write_text("# nothing\n")
    assert load_profile(tmp_path / "p.yaml", SlurmProfile) == SlurmProfile()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("partitoin: gpu", SlurmProfile, r"p.yaml: partitoin: unknown key; did you mean 'partition'\?"),
        ("zzz: 1", SlurmProfile, r"p.yaml: zzz: unknown key; allowed are gpus, .*options"),
        ("scheduler: slurm", HTCondorProfile, r"p.yaml: scheduler: 'slurm' must be 'htcondor'"),
        ("gpus: -1", SlurmProfile, r"p.yaml: gpus: -1 must be greater than or equal to 0"),
        ("cpus: many", SlurmProfile, r"p.yaml: cpus: 'many' must be a valid integer"),
        ("universe: docker", HTCondorProfile, r"p.yaml: image: None does not fit universe 'docker'"),
        ("image: ubuntu:24.04", HTCondorProfile, r"p.yaml: image: 'ubuntu:24.04' does not fit universe 'vanilla'"),
        ("minutes: 5\nwarning_seconds: 300", SlurmProfile, r"warning_seconds: 300 is not less than .* 300 s"),
        ("partition: a; rm -r", SlurmProfile, r"p.yaml: partition: 'a; rm -r' must match pattern"),
        ('requirements: "a\\nqueue 99"', HTCondorProfile, r"p.yaml: requirements: .* must match pattern"),
        ('attributes: {"a = 1": "2"}', HTCondorProfile, r"p.yaml: attributes.a = 1: 'a = 1' must match pattern"),
        ("options: [exclude=node7]", SlurmProfile, r"p.yaml: options.0: 'exclude=node7' must match pattern"),
        ("- gpus", SlurmProfile, r"p.yaml: contains a list, expected a mapping"),
        ("gpus: [", SlurmProfile, r"p.yaml: is not valid YAML"),
    ],
)
def test_a_bad_profile_is_refused_in_one_line(tmp_path: Path, text: str, kind: type, message: str):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_profile(path, kind)
    assert "\n" not in str(caught.value)


def test_everything_wrong_is_named_at_once(tmp_path: Path):
    path = tmp_path / "p.yaml"
    path.write_text("gpus: -1\ncpu: 3\n")
    with pytest.raises(InputError) as caught:
        load_profile(path, SlurmProfile)
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_profile_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"p.yaml: cannot be read: No such file"):
        load_profile(tmp_path / "p.yaml", SlurmProfile)
