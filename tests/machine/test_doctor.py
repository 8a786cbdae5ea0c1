import json
from pathlib import Path

import numpy as np
import pytest

from bridge.networks import build
from bridge.target import load_target, save_target
from jaxmia.cli.main import main
from jaxmia.errors import InputError
from jaxmia.machine import doctor
from jaxmia.machine.doctor import (
    Gpu,
    Used,
    check_devices,
    check_file,
    check_kernels,
    check_memory,
    check_packages,
    installed_version,
)
from jaxmia.models import Network
from tests.bridge.own import words

H100 = Gpu("NVIDIA H100", "580.65.06", "81559 MiB", 9.0)
P100 = Gpu("Tesla P100", "535.10", "16384 MiB", 6.0)
CPU = Used("cpu", ("cpu",), None)


@pytest.mark.parametrize(
    ("driver", "capability", "extra"),
    [
        ("580.65.06", 9.0, "cuda13"),
        ("580.65.06", 7.5, "cuda13"),
        ("580.65.06", 7.0, "cuda12"),
        ("535.10", 9.0, "cuda12"),
        ("525.60", 6.0, "cuda12"),
        ("470.1", 8.0, None),
    ],
)
def test_the_extra_follows_driver_and_generation(driver: str, capability: float, extra: str | None):
    assert Gpu("x", driver, "1 MiB", capability).extra == extra


def not_installed(package: str) -> str:
    del package
    return ""


def test_a_gpu_that_jax_does_not_use_is_bad_and_the_remedy_names_the_extra():
    shown, verdict = check_devices([H100], lambda: CPU, {}, not_installed)
    assert (shown.state, shown.text) == ("ok", "NVIDIA H100, 81559 MiB, driver 580.65.06")
    assert (verdict.state, verdict.remedy) == ("bad", "pip install -c constraints.txt -e '.[cuda13]'")
    assert verdict.text == "computes on cpu: cpu; the GPU is not used"
    assert "cuDNN before 9.11" in check_devices([P100], lambda: CPU, {}, not_installed)[-1].remedy


def test_what_keeps_an_installed_plugin_from_the_gpu():
    remedies = [
        check_devices([H100], lambda: CPU, environment, lambda package: "0.10.2")[-1].remedy
        for environment in ({"JAX_PLATFORMS": "cpu"}, {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"}, {})
    ]
    assert [remedy.split(",")[0] for remedy in remedies] == [
        "unset JAX_PLATFORMS",
        "unset LD_LIBRARY_PATH",
        "pip install --force-reinstall -c constraints.txt -e '.[cuda13]'",
    ]
    old = Gpu("x", "470.1", "1 MiB", 8.0)
    assert check_devices([old], lambda: CPU, {})[-1].remedy == "update the driver 470.1 to 525 or newer"


def test_a_gpu_in_use_and_a_machine_without_one_are_well():
    used = Used("gpu", ("NVIDIA H100", "NVIDIA H100"), 60 * 2**30)
    (_, verdict) = check_devices([H100], lambda: used, {})
    assert (verdict.state, verdict.text) == ("ok", "computes on gpu: NVIDIA H100, NVIDIA H100, 60.0 GiB each")
    assert check_devices([], lambda: used, {})[-1].state == "ok"


def test_a_device_that_fails_is_bad_in_one_line():
    def fail() -> Used:
        raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED\n  at somewhere\n" + "x" * 5000)

    verdict = check_devices([H100], fail, {})[-1]
    assert verdict.state == "bad"
    assert verdict.text.startswith("cannot compute: CUDNN_STATUS_NOT_INITIALIZED at somewhere x")
    assert "\n" not in verdict.text
    assert len(verdict.text) < 400


def test_this_machine_computes_and_has_what_is_needed():
    used = doctor.used_devices()
    assert used.platform in ("cpu", "gpu", "tpu")
    assert len(used.names) >= 1
    assert [finding.state for finding in check_packages()] == ["ok", "ok"]
    assert "disk free" in check_memory()[0].text


def test_kernels_that_are_missing_keep_nothing_from_running():
    found = check_kernels(None, "avx2 fma, GCC 12.2.0")
    assert (found.state, found.text) == ("ok", "compiled for this processor: avx2 fma, GCC 12.2.0")
    finding = check_kernels("not used, so that training may be slower: no C++ compiler found", "unavailable")
    assert (finding.state, finding.remedy) == ("note", "install a recent C++ compiler, such as g++")
    assert "slower: no C++ compiler" in finding.text


def test_a_missing_or_old_package_is_named():
    versions = {"torch": "2.5.0", "optax": ""}
    found = check_packages(lambda package: versions.get(package, installed_version(package)))
    bad = {finding.subject: finding for finding in found if finding.state == "bad"}
    assert bad.keys() == {"torch", "optax"}
    assert bad["torch"].text == "2.5.0, required: torch>=2.10"
    assert bad["optax"].text.startswith("missing, required: optax>=")


def test_files_are_named_sized_and_read(tmp_path: Path):
    path = tmp_path / "pub.pt"
    path.write_bytes(b"x" * 3 * 2**20)
    assert check_file("challenge.public", path, lambda path: "3 images").text == f"{path}, 3 MiB: 3 images"
    assert check_file("challenge.public", None, str).remedy.endswith("--challenge.public FILE")
    assert check_file("a", tmp_path / "none", str).text == f"{tmp_path}/none: cannot be read: No such file or directory"

    def refuse(path: Path) -> str:
        raise InputError(f"{path}: is no such thing")

    assert check_file("a", path, refuse).text == f"{path}: is no such thing"


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX may be installed without support for the one of this machine."""
    monkeypatch.setattr(doctor, "gpus", list)


@pytest.mark.usefixtures("without_gpu")
def test_the_command_prints_findings_and_fails_where_one_is_bad(capsys, tmp_path: Path):
    (tmp_path / "a.yaml").write_text("challenge: {public: none.pt}")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--config", str(tmp_path / "a.yaml"), "--json"])
    shown = capsys.readouterr()
    states = {finding["subject"]: finding["state"] for finding in json.loads(shown.out)["findings"]}
    assert stop.value.code == 1
    assert states["challenge.public"] == states["challenge.target"] == "bad"
    assert "challenge.public, challenge.private, challenge.target" in shown.err
    main(["doctor"])
    assert capsys.readouterr().out.startswith("ok    jaxmia: ")


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize(
    ("samples", "changes", "code", "line"),
    [
        ("features", {}, 0, "shadow: mlp, trained together in JAX, queried in 1 view"),
        ("features", {"backend": "torch"}, 0, "shadow: mlp, trained one after another in PyTorch on"),
        (
            "features",
            {"architecture": "resnet18"},
            1,
            "shadow: shadow.architecture: resnet18 does not take rows of fea",
        ),
        ("features", {"augment": {"flip": True}}, 1, "shadow: shadow.augment: rows of features cannot be augmented"),
        ("tokens", {"architecture": "target"}, 0, "shadow: target, trained together in JAX, queried in 1 view"),
        ("tokens", {"architecture": "mlp"}, 1, "shadow: shadow.architecture: mlp does not take sequences of token ids"),
    ],
)
def test_the_shadows_are_tried_on_the_pool_s_own_samples(
    samples: str, changes: dict, code: int, line: str, tmp_path: Path, capsys
):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8, 5)).astype(np.float32) if samples == "features" else rng.integers(0, 9, (8, 5), np.int32)
    for name, ids, known in (("public", range(8), {"membership": np.arange(8) % 2}), ("private", range(8, 16), {})):
        np.savez(
            tmp_path / f"{name}.npz",
            **{samples: rows},
            labels=np.arange(8) % 3,
            ids=[f"{i}" for i in ids],
            **known,
        )
    save_target(words() if samples == "tokens" else build(Network("mlp", (5,), 3, width=4)), tmp_path / "model.pt")
    files = {name: str(tmp_path / f"{name}.npz") for name in ("public", "private")}
    section = {**files, "target": str(tmp_path / "model.pt")}
    section |= {"architecture": "tests.bridge.own:words"} if samples == "tokens" else {}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"challenge": section, "shadow": {"architecture": "mlp", **changes}}))
    if code:
        with pytest.raises(SystemExit):
            main(["doctor", "--config", str(path)])
    else:
        main(["doctor", "--config", str(path)])
    shown = capsys.readouterr().out
    assert f"{'bad ' if code else 'ok  '}  {line}" in shown
    assert (
        f"public.npz, 1 KiB: 8 {'rows of features' if samples == 'features' else 'sequences of token ids'} of 5"
        in shown
    )


def _challenge(folder: Path, *, right: bool, **changes: dict) -> Path:
    """Writes a target, rows with the classes that it predicts (or others), and the configuration of the files."""
    save_target(build(Network("mlp", (5,), 3, width=4)), folder / "model.pt")
    rows = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    predicted = load_target(folder / "model.pt").query(rows).argmax(1)
    for name in ("public", "private"):
        content = {
            "features": rows,
            "labels": predicted if right else (predicted + 1) % 3,
            "ids": [f"{name}-{i}" for i in range(30)],
            "membership": np.arange(30) < 10,
        }
        np.savez(folder / f"{name}.npz", **{**content, **changes.get(name, {})})
    files = {name: str(folder / f"{name}.npz") for name in ("public", "private")}
    path = folder / "config.yaml"
    section = {"challenge": {**files, "target": str(folder / "model.pt")}, "shadow": {"architecture": "mlp"}}
    path.write_text(json.dumps(section))
    return path


@pytest.mark.usefixtures("without_gpu")
def test_the_target_is_tried_on_public_samples(tmp_path: Path, capsys):
    main(["doctor", "--config", str(_challenge(tmp_path, right=True))])
    shown = capsys.readouterr().out
    assert "ok    challenge: accuracy of the target 1.00 on 10 public members, 1.00 on 20 public non-members\n" in shown


@pytest.mark.usefixtures("without_gpu")
def test_a_target_that_is_no_better_than_chance_is_noted(tmp_path: Path, capsys):
    main(["doctor", "--config", str(_challenge(tmp_path, right=False))])
    shown = capsys.readouterr().out
    assert "note  challenge: accuracy of the target 0.00 on 10 public members, 0.00 on 20 public non-members; " in shown
    assert " is chance\n      -> check challenge.image_size, mean and std, and that labels begin at 0\n" in shown


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"private": {"ids": [f"public-{i}" for i in range(30)]}}, "private.npz: ids: 'public-0' is also in "),
        (
            {"public": {"labels": np.arange(30) % 3 + 1}},
            "public.npz: labels[2] is 3, allowed is an integer from 0 to 2",
        ),
        ({"private": {"features": np.zeros((30, 4), np.float32)}}, "private.npz: its rows of features have shape (4,)"),
    ],
)
def test_files_that_do_not_fit_each_other_are_bad(changes: dict, line: str, tmp_path: Path, capsys):
    path = _challenge(tmp_path, right=True, **changes)
    with pytest.raises(SystemExit):
        main(["doctor", "--config", str(path)])
    assert f"bad   challenge: {tmp_path}/{line}" in capsys.readouterr().out
