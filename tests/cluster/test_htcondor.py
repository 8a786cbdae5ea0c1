"""The submit files as HTCondor itself reads them; there is no daemon here to run them."""

from pathlib import Path

import pytest

from jaxmia.cluster.htcondor import HTCondorProfile, write_htcondor

htcondor2 = pytest.importorskip("htcondor2")
classad2 = pytest.importorskip("classad2")

DOCUMENTED = {
    *("arguments", "batch_name", "container_image", "docker_image", "environment", "error", "executable"),
    *("gpus_minimum_capability", "gpus_minimum_memory", "initialdir", "job_max_vacate_time", "log", "max_retries"),
    *("notification", "on_exit_hold", "on_exit_remove", "output", "periodic_release", "periodic_remove", "priority"),
    *("rank", "request_cpus", "request_disk", "request_gpus", "request_memory", "require_gpus", "requirements"),
    *("retry_until", "should_transfer_files", "success_exit_code", "transfer_executable", "transfer_input_files"),
    *("transfer_output_files", "universe", "when_to_transfer_output"),
}
"""Commands that the manual page of condor_submit knows; it only warns of others, and the job goes without."""


@pytest.fixture
def submits(tmp_path: Path, config: Path, course: HTCondorProfile) -> dict:
    if " " in str(tmp_path):
        pytest.skip("job files take no path with a space")
    files = write_htcondor(config, tmp_path / "run", 4, course).files
    return {path.stem: htcondor2.Submit(path.read_text()) for path in files if path.suffix == ".sub"}


def unknown(submit) -> set[str]:
    """Commands of a submit file that condor_submit does not know; `MY.` marks attributes of the user's own."""
    return {key for key in submit if key.lower() not in DOCUMENTED and not key.startswith("MY.")}


def test_submit_files_parse_into_known_commands(submits: dict):
    assert submits.keys() == {"train", "score"}
    for submit in submits.values():
        assert unknown(submit) == set()


def test_an_unknown_command_would_be_found():
    assert unknown(htcondor2.Submit("executable = a\nrequest_gpu = 1\nqueue")) == {"request_gpu"}


def test_one_job_a_shard_then_one_that_scores(submits: dict):
    assert submits["train"].getQArgs() == "4"
    assert submits["train"]["arguments"] == "$(Process)"
    assert submits["score"].getQArgs() == "1"
    assert "arguments" not in submits["score"].keys()  # noqa: SIM118 (`in submit` finds defaults too)


def test_the_course_asks_reach_the_job(submits: dict):
    for submit in submits.values():
        assert submit["universe"] == "docker"
        assert submit["docker_image"]
        assert (submit["request_GPUs"], submit["request_CPUs"], submit["request_memory"]) == ("1", "4", "16 GB")
        assert (submit["MY.WantGPUHomeMounted"], submit["MY.WantScratchMounted"]) == ("true", "true")
        assert submit["should_transfer_files"] == "YES"


def test_every_path_is_absolute(submits: dict):
    for submit in submits.values():
        for key in ("executable", "initialdir", "output", "error", "log"):
            assert Path(submit[key]).is_absolute(), key


@pytest.mark.parametrize(
    ("domain", "fits"), [("cs.uni-saarland.de", True), ("CS.UNI-SAARLAND.DE", True), ("elsewhere.org", False)]
)
def test_requirements_choose_the_courses_machines(submits: dict, domain: str, fits: bool):
    machine = classad2.ClassAd({"UidDomain": domain})
    assert classad2.ExprTree(submits["train"]["requirements"]).eval(machine) is fits


@pytest.mark.parametrize(
    ("end", "leaves"),
    [
        ({"ExitBySignal": False, "ExitCode": 1}, True),  # bad input
        ({"ExitBySignal": False, "ExitCode": 2}, True),  # bad usage
        ({"ExitBySignal": False, "ExitCode": 85}, False),  # told to stop, has saved
        ({"ExitBySignal": False, "ExitCode": 137}, False),  # killed in its container
        ({"ExitBySignal": True, "ExitSignal": 9}, False),  # killed
    ],
)
def test_only_bad_input_ends_the_retries(submits: dict, end: dict, leaves: bool):
    """Of the jobs that did not end with `success_exit_code`, which leave the queue before `max_retries`."""
    assert submits["train"]["success_exit_code"] == "0"
    assert int(submits["train"]["max_retries"]) > 0
    assert classad2.ExprTree(submits["train"]["retry_until"]).eval(classad2.ClassAd(end)) is leaves


def test_dag_scores_after_training(tmp_path: Path, config: Path, course: HTCondorProfile):
    dag = write_htcondor(config, tmp_path / "run", 4, course).files[-1]
    lines = [line.split() for line in dag.read_text().splitlines() if not line.startswith("#")]
    jobs = {words[1]: Path(words[2]) for words in lines if words[0] == "JOB"}
    assert jobs.keys() == {"train", "score"}
    for path in jobs.values():
        htcondor2.Submit(path.read_text())
    assert [words for words in lines if words[0] != "JOB"] == [["PARENT", "train", "CHILD", "score"]]


def test_container_universe_and_further_commands(tmp_path: Path, config: Path):
    profile = HTCondorProfile(
        universe="container", image="image.sif", commands={"gpus_minimum_capability": "7.0"}, retries=3
    )
    train = write_htcondor(config, tmp_path / "run", 2, profile).files[1]
    submit = htcondor2.Submit(train.read_text())
    assert unknown(submit) == set()
    assert (submit["container_image"], submit["gpus_minimum_capability"]) == ("image.sif", "7.0")
    assert submit["max_retries"] == "3"
