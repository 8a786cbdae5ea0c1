import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from jaxmia.cli.main import main
from jaxmia.cluster import SCHEDULERS, write_jobs
from jaxmia.cluster.htcondor import HTCondorProfile, write_htcondor
from jaxmia.cluster.slurm import SlurmProfile, write_slurm
from jaxmia.config import load_config
from jaxmia.errors import InputError
from tests.cluster.slurm import wait_for

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's list of signals")
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system with a home and a working directory, as every machine of a cluster sees it."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def installed(shared: Path) -> dict:
    """Where jaxmia is on that file system."""
    return {"command": shared / "home/jaxmia/.venv/bin/jaxmia"}


def assert_golden(shared: Path, files: tuple[Path, ...], folder: str) -> None:
    """Compares with the files under golden/, where `shared` is /shared. Missing ones are written, to be looked at."""
    rendered = {GOLDEN / folder / path.name: path.read_text().replace(str(shared), "/shared") for path in files}
    missing = [golden for golden in rendered if not golden.exists()]
    for golden in missing:
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(rendered[golden])
    assert not missing, "written just now: look at them"
    for golden, text in rendered.items():
        assert text == golden.read_text(), golden


def test_htcondor_files_are_the_golden_ones(shared: Path, config: Path, course: HTCondorProfile):
    job_files = write_htcondor(config, shared / "run", 4, course.model_copy(update=installed(shared)))
    assert_golden(shared, job_files.files, "htcondor")
    assert job_files.submit == f"condor_submit_dag {shared}/run/cluster/jaxmia.dag"


def test_slurm_files_are_the_golden_ones(shared: Path, config: Path, generic: SlurmProfile):
    job_files = write_slurm(config, shared / "run", 4, generic.model_copy(update=installed(shared)))
    assert_golden(shared, job_files.files, "slurm")
    assert job_files.submit == f"{shared}/run/cluster/submit.sh"


def test_slurm_file_of_a_job_over_nodes_is_the_golden_one(shared: Path, config: Path, generic: SlurmProfile):
    profile = generic.model_copy(update={**installed(shared), "nodes": 2})
    train, *rest = write_slurm(config, shared / "run", 4, profile).files
    assert_golden(shared, (train,), "slurm-nodes")
    alone = write_slurm(config, shared / "alone", 4, generic.model_copy(update=installed(shared))).files[1:]
    assert [path.read_text() for path in rest] == [path.read_text().replace("/alone", "/run") for path in alone]


def test_relative_paths_become_absolute(shared: Path, config: Path):
    shutil.copy(config, "config.yaml")
    given = Path("config.yaml"), Path("run"), 2
    for path in (*write_htcondor(*given, HTCondorProfile()).files, *write_slurm(*given, SlurmProfile()).files):
        assert path.is_absolute()
        commands = [line for line in path.read_text().splitlines() if "--config" in line]
        assert len(commands) == {"train": path.suffix != ".sub", "score": 3 * (path.suffix != ".sub")}.get(path.stem, 0)
        assert all(f"--config {shared}/work/config.yaml --out {shared}/work/run" in line for line in commands)


@pytest.mark.parametrize(("scheduler", "first"), [("htcondor", "train.sh"), ("slurm", "train.sbatch")])
def test_scheduler_is_chosen_by_name(shared: Path, config: Path, scheduler: str, first: str):
    Path("profile.yaml").write_text(f"scheduler: {scheduler}\ncommand: /opt/jaxmia\n")
    with_profile = write_jobs(scheduler, config, shared / "run", 2, Path("profile.yaml"))
    assert with_profile.files[0].name == first
    assert "/opt/jaxmia train" in with_profile.files[0].read_text()
    assert "bin/jaxmia train" in write_jobs(scheduler, config, shared / "run", 2).files[0].read_text()


def test_log_folder_is_there_before_the_scheduler_needs_it(shared: Path, config: Path):
    write_slurm(config, shared / "run", 2, SlurmProfile())
    assert (shared / "run/cluster/logs").is_dir()


@pytest.mark.parametrize("jobs", [0, -1, 9])
def test_more_jobs_than_models_are_refused(shared: Path, config: Path, jobs: int):
    with pytest.raises(InputError, match=rf"--jobs {jobs}: must be from 1 to 8"):
        write_slurm(config, shared / "run", jobs, SlurmProfile())
    assert not (shared / "run").exists()


@pytest.mark.parametrize(
    ("jobs", "nodes", "complaint"),
    [
        (3, 3, r"--jobs 3: must be from 1 to 2, the number of models \(.*\) divided by the number of nodes \(3\)"),
        (1, 9, r"nodes: 9 is more than 8, the number of models"),
    ],
)
def test_more_nodes_than_models_are_refused(shared: Path, config: Path, jobs: int, nodes: int, complaint: str):
    with pytest.raises(InputError, match=complaint):
        write_slurm(config, shared / "run", jobs, SlurmProfile(nodes=nodes))
    assert not (shared / "run").exists()


@pytest.mark.parametrize("name", ["my run", "run$(id)", 'run"', "run%a", "run\n"])
def test_path_that_means_something_to_a_scheduler_is_refused(shared: Path, config: Path, name: str):
    with pytest.raises(InputError, match="job files cannot contain a path with"):
        write_htcondor(config, shared / name, 2, HTCondorProfile())


def test_bad_config_is_refused_before_it_waits_in_a_queue(shared: Path, config: Path):
    config.write_text("shadow:\n  count: none\n")
    with pytest.raises(InputError, match=r"config.yaml: shadow.count: 'none'"):
        write_htcondor(config, shared / "run", 2, HTCondorProfile())


def test_every_field_of_the_slurm_profile_reaches_sbatch(shared: Path, config: Path):
    profile = SlurmProfile(
        gpus=2,
        gpu_type="a100",
        cpus=7,
        memory_gb=33,
        minutes=90,
        warning_seconds=120,
        partition="gpu",
        account="chair",
        qos="long",
        constraint="a100|h100",
        options=("--exclude=node7",),
    )
    text = write_slurm(config, shared / "run", 3, profile).files[0].read_text()
    for option in (
        "--array=0-2",
        "--gres=gpu:a100:2",
        "--cpus-per-task=7",
        "--mem=33G",
        "--time=90",
        "--signal=B:USR1@120",
        "--partition=gpu",
        "--account=chair",
        "--qos=long",
        '--constraint="a100|h100"',
        "--exclude=node7",
        "--requeue",
    ):
        assert f"#SBATCH {option}\n" in text


def test_a_job_without_gpu_asks_for_none(shared: Path, config: Path):
    slurm = write_slurm(config, shared / "run", 2, SlurmProfile(gpus=0)).files[0].read_text()
    htcondor = write_htcondor(config, shared / "run", 2, HTCondorProfile(gpus=0)).files[1].read_text()
    assert "gres" not in slurm
    assert "request_GPUs" not in htcondor


@pytest.fixture
def stand_in(shared: Path) -> Path:
    """A command in jaxmia's place: says what it was asked, then saves and exits when told to stop."""
    path = shared / "stand-in"
    path.write_text(
        "#!/bin/bash\n"
        'echo "asked $* in $PWD with $GREETING"\n'
        "trap 'echo saved; exit \"$JAXMIA_REQUEUE_EXIT_CODE\"' TERM\n"
        'if [ "$1" = train ] && [ -n "$LONG" ]; then echo training; while :; do sleep 0.05; done; fi\n'
    )
    path.chmod(0o755)
    return path


def test_htcondor_scripts_run_the_stages(shared: Path, config: Path, stand_in: Path):
    profile = HTCondorProfile(
        command=stand_in,
        launcher="env LAUNCHED=1",
        environment={"GREETING": "it's $HOME"},
        setup=("echo set up",),
    )
    files = {path.name: path for path in write_htcondor(config, shared / "run", 4, profile).files}
    environment = {"PATH": os.environ["PATH"]}  # a container need not have more
    rest = f"--config {config} --out {shared}/run"
    train = subprocess.run([files["train.sh"], "3"], capture_output=True, text=True, env=environment, check=True)
    assert train.stdout.splitlines() == ["set up", f"asked train {rest} --shard 3/4 in {shared}/work with it's $HOME"]
    score = subprocess.run([files["score.sh"]], capture_output=True, text=True, env=environment, check=True)
    assert [line.split()[1] for line in score.stdout.splitlines()[1:]] == ["query", "score", "report"]


@needs_proc
def test_htcondor_signal_reaches_the_trainer(shared: Path, config: Path, stand_in: Path):
    files = write_htcondor(config, shared / "run", 4, HTCondorProfile(command=stand_in)).files
    assert _signalled([files[0], "0"], signal.SIGTERM, {}) == (85, "saved")


@needs_proc
@pytest.mark.parametrize(
    ("number", "requeued"),
    [(signal.SIGUSR1, "requeue 12_3"), (signal.SIGTERM, None)],
    ids=["time nearly up", "taken away"],
)
def test_slurm_script_saves_and_requeues(
    shared: Path, config: Path, stand_in: Path, number: signal.Signals, requeued: str | None
):
    """When time is up it is ours to requeue; a job that Slurm takes away is requeued by Slurm."""
    scontrol = shared / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/bash\necho "$*" > {shared}/requeued\n')
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "12", "SLURM_JOB_ID": "15"}
    script = write_slurm(config, shared / "run", 4, SlurmProfile(command=stand_in)).files[0]
    # Slurm sends TERM to every process of the job, USR1 to the shell alone.
    status, last = _signalled(["bash", script], number, environment, to_all=number == signal.SIGTERM)
    assert status != 0
    assert last == "saved"
    told = (shared / "requeued").read_text().strip() if (shared / "requeued").exists() else None
    assert told == requeued


@pytest.mark.parametrize("code", [0, 1, 137])
def test_slurm_script_passes_the_trainers_exit_code_on(shared: Path, config: Path, code: int):
    failing = shared / "failing"
    failing.write_text(f"#!/bin/bash\nexit {code}\n")
    failing.chmod(0o755)
    script = write_slurm(config, shared / "run", 4, SlurmProfile(command=failing)).files[0]
    done = subprocess.run(["bash", script], env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"}, check=False)
    assert done.returncode == code


def test_slurm_script_does_not_train_after_a_failed_setup(shared: Path, config: Path, stand_in: Path):
    profile = SlurmProfile(command=stand_in, setup=("false",))
    script = write_slurm(config, shared / "run", 4, profile).files[0]
    done = subprocess.run(["bash", script], env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"}, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")


def _signalled(command: list, number: signal.Signals, environment: dict[str, str], to_all: bool = False):
    """Exit code and last line of a command that gets a signal while its stand-in trains."""
    environment = {**os.environ, **environment, "LONG": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert process.stdout is not None
    lines = []
    while not lines or lines[-1] != "training":
        lines.append(process.stdout.readline().strip())
        assert lines[-1], f"ended early: {lines}"
    # The shell sets its traps after it has started the trainer.
    wait_for(lambda: _catches(process.pid, number), "the shell to trap the signal", seconds=60)
    (os.killpg if to_all else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output.split()[-1]


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def test_a_scheduler_is_one_module_and_one_row(shared: Path, config: Path, monkeypatch: pytest.MonkeyPatch):
    """What a third scheduler needs: a profile, a writer, a row."""
    shared.mkdir(exist_ok=True)
    (shared / "jaxmia_test_pbs.py").write_text(
        "from jaxmia.cluster.jobs import JobFiles, job_values\n"
        "from jaxmia.cluster.profile import Profile\n"
        "class PBSProfile(Profile):\n"
        "    queue: str = 'gpu'\n"
        "def write_pbs(config, out, jobs, profile):\n"
        "    values = job_values(config, out, jobs, profile)\n"
        "    return JobFiles((), f'qsub -q {profile.queue} -J 0-{values[\"jobs\"] - 1}')\n"
    )
    monkeypatch.syspath_prepend(shared)
    monkeypatch.setitem(SCHEDULERS, "pbs", ("jaxmia_test_pbs", "PBSProfile", "write_pbs"))
    assert write_jobs("pbs", config, shared / "run", 4).submit == "qsub -q gpu -J 0-3"


def test_the_jobs_read_the_fields_that_are_set_on_the_command_line(shared: Path, config: Path, capsys):
    """The paths of the challenge stay relative to the working directory, in which the jobs run."""
    for name in ("pub.pt", "priv.pt", "model.pt"):
        Path(name).touch()
    files = ["--challenge.public", "pub.pt", "--challenge.private", "priv.pt", "--challenge.target", "model.pt"]
    command = ["cluster", "slurm", "--config", str(config), "--out", str(shared / "run"), "--jobs", "3"]
    main([*command, *files, "--shadow.count", "12"])
    written = shared / "run" / "cluster" / "config.yaml"
    resolved = load_config(written)
    assert (resolved.shadow.count, resolved.challenge.target) == (12, Path("model.pt"))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == str(written)
    assert f"train --config {written} --out {shared}/run" in Path(shown[1]).read_text()
    assert config.read_text() == "shadow:\n  count: 8\n"


def test_job_files_of_two_rounds_are_refused(shared: Path, config: Path, generic: SlurmProfile):
    config.write_text("shadow: {rounds: 2, count: 8}")
    with pytest.raises(
        InputError, match=r"shadow\.rounds: 2 is more than job files can do; submit `jaxmia train` with"
    ):
        write_slurm(config, shared / "run", 4, generic)
