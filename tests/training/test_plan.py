import functools
import json
import re
from dataclasses import replace

import jax
import pytest

from jaxmia.config import EnsembleConfig, Recipe
from jaxmia.data.kinds import FEATURES, IMAGES
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError
from jaxmia.machine.ceiling import training_flops_per_image
from jaxmia.models import Compute, Network
from jaxmia.models.native import build as native
from jaxmia.provenance import origin
from jaxmia.training import autotune, devices, plan
from jaxmia.training.autotune import conv_choices, make_plan
from jaxmia.training.devices import compute_dtype
from jaxmia.training.measure import StepTimer, attempt, images_per_second, out_of_memory
from jaxmia.training.plan import plan_of
from jaxmia.training.programs import Programs
from jaxmia.training.trainer import Trainer
from tests.conftest import telling
from tests.kernels import needs_kernels

LARGE = 10**9
"""Samples of a pool that is worth any measurement."""


def test_models_are_padded_to_fill_the_devices():
    device = jax.local_devices()[0]
    assert plan_of(6, "unrolled", (device,) * 3).padded([5, 7]) == [5, 7, 7]
    assert plan_of(6, "unrolled", (device,) * 3).padded([5, 7, 9]) == [5, 7, 9]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jaxmia"


def trainer(architecture: str = "mlp", **recipe) -> Trainer:
    network = Network(architecture, (4, 4, 1), 3, width=4)  # type: ignore[arg-type]
    return Trainer(network, Recipe(batch_size=4, **recipe), Preprocessing(), Compute())


def test_what_is_given_is_not_measured(cache, records):
    plan = make_plan(EnsembleConfig(width=6, conv="matmul", devices=1), trainer("cnn"), 100, LARGE)
    assert records == []
    assert (plan.width, plan.lowering, plan.sequential) == (6, "matmul", False)
    assert not cache.exists()


def test_auto_takes_the_fastest_and_remembers_it(cache, monkeypatch):
    rates = {
        ("unrolled", 4): 10.0,
        ("matmul", 4): 20.0,
        ("grouped", 4): 12.0,
        ("matmul", 8): 30.0,
        ("matmul", 16): 31.0,
    }
    tried = []

    class FakeRig:
        def __init__(self, chosen, plan):
            self.what = (plan.lowering, plan.width)

    def rate(timer):
        tried.append(timer.what)
        return rates[timer.what]

    monkeypatch.setattr(autotune, "StepTimer", FakeRig)
    monkeypatch.setattr(autotune, "images_per_second", rate)
    monkeypatch.setattr(autotune.native, "unavailable", lambda: "no C++ compiler")
    section = EnsembleConfig(devices=1)
    plan = make_plan(section, trainer("cnn"), 64, LARGE)
    assert (plan.width, plan.lowering) == (8, "matmul")
    assert tried == list(rates)
    assert make_plan(section, trainer("cnn"), 64, LARGE) == plan
    assert len(tried) == 5
    (kept,) = cache.glob("plan-*.json")
    assert json.loads(kept.read_text())["width"] == 8
    contents = (
        "",
        "[]",
        "null",
        '"x"',
        "[" * 10**5,
        '{"width": 8}',
        '{"width": 8, "conv": 3}',
        '{"width": 8, "conv": "x"}',
    )
    widths = ("0", "-1", "1e400", '"8"', "true", "[8]", "10000")
    for content in (*contents, *(f'{{"width": {width}, "conv": "matmul"}}' for width in widths)):
        kept.write_text(content)
        tried.clear()
        assert make_plan(section, trainer("cnn"), 64, LARGE) == plan
        assert len(tried) == 5, f"{content[:40]}: found out anew, and kept"
        assert json.loads(kept.read_text())["width"] == 8


def test_a_small_training_is_not_measured_for_longer_than_it_takes(monkeypatch):
    """The first way takes all the time that is worth it; the next are not tried."""
    tried, now = [], [0.0]

    def rate(timer):
        tried.append(timer)
        now[0] += 10.0
        return 100.0

    monkeypatch.setattr(autotune, "StepTimer", lambda chosen, plan: plan.width)
    monkeypatch.setattr(autotune, "images_per_second", rate)
    monkeypatch.setattr(autotune.time, "monotonic", lambda: now[0])
    # 8 models x 2 epochs x 300 samples are 48 seconds at that rate, a fifth of it is less than the first trial took.
    plan = make_plan(EnsembleConfig(devices=1), trainer("cnn", epochs=2), 8, 600)
    assert (tried, plan.width) == ([4], 4)


@pytest.mark.parametrize("matmul", [90.0, 20.0], ids=["close", "hopeless"])
def test_where_vmap_loses_models_of_a_network_of_ones_own_train_one_after_another(records, monkeypatch, matmul: float):
    """Also where one way of vmap is so much slower than another that the rest would not be tried."""
    rates = {"unrolled": 100.0, "matmul": matmul, "sequential": 150.0}
    monkeypatch.setattr(autotune, "StepTimer", lambda chosen, plan: "sequential" if plan.sequential else plan.lowering)
    monkeypatch.setattr(autotune, "images_per_second", rates.__getitem__)
    monkeypatch.setattr(autotune, "conv_choices", lambda trainer, platform: tuple(rates))
    plan = make_plan(EnsembleConfig(devices=1), trainer("cnn"), 4, LARGE)
    assert plan.sequential
    assert telling(records, "one after another (150 images/s)", "vmap (100 images/s)") == ["INFO"]
    assert "convolutions sequential" in str(plan)


def test_networks_of_ones_own_are_tried_one_after_another_too():
    class Own:
        convolutional, dense = True, False

    assert conv_choices(replace(trainer(), network=Own()), "cpu")[1] == "sequential"
    assert "sequential" not in conv_choices(trainer("cnn"), "cpu")


def test_too_little_memory_ends_the_widening(records, monkeypatch):
    def rate(timer):
        if timer > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return 1.0

    monkeypatch.setattr(autotune, "StepTimer", lambda chosen, plan: plan.width)
    monkeypatch.setattr(autotune, "images_per_second", rate)
    plan = make_plan(EnsembleConfig(devices=1, conv="unrolled"), trainer("cnn"), 64, LARGE)
    assert plan.width == 4
    assert telling(records, "width 8", "out of memory") == ["INFO"]


def test_a_width_is_a_multiple_of_the_devices():
    devices = ("a", "b", "c")
    assert [plan_of(width, "unrolled", devices).width for width in (1, 2, 3, 5, 6)] == [1, 2, 3, 3, 6]
    assert plan_of(2, "unrolled", devices).devices == ("a", "b")
    assert plan_of(13, "sequential", devices).width == 12


def test_kernels_that_cannot_be_had(monkeypatch):
    section = EnsembleConfig(devices=1, width=2, conv="native")
    half = replace(trainer("cnn"), compute=Compute(jax.numpy.dtype("bfloat16")))
    monkeypatch.setattr(autotune.native, "unavailable", lambda: None)
    monkeypatch.setattr(autotune.native, "multiplies_bfloat16", lambda: False)
    with pytest.raises(InputError, match="native: the precision is bfloat16, which this processor does not multiply"):
        make_plan(section, half, 8, LARGE)
    monkeypatch.setattr(autotune.native, "unavailable", lambda: "no C++ compiler: none is found")
    with pytest.raises(InputError, match=r"ensemble\.conv: native: no C\+\+ compiler"):
        make_plan(section, trainer("cnn"), 8, LARGE)
    assert conv_choices(trainer("cnn"), "cpu") == ("unrolled", "matmul", "grouped")


@pytest.fixture
def not_warned(monkeypatch):
    """Nothing has been told of the kernels in this process."""
    for module in (native, devices):
        monkeypatch.setattr(module, "warn_of_shortcoming", functools.cache(native.warn_of_shortcoming.__wrapped__))


@pytest.mark.usefixtures("not_warned")
@pytest.mark.parametrize("conv", ["auto", "native"])
def test_kernels_that_are_slower_than_they_could_be_are_told_once(records, monkeypatch, conv: str):
    monkeypatch.setattr(native, "unavailable", lambda: None)
    monkeypatch.setattr(native, "shortcoming", lambda: "compiled without avx2")
    monkeypatch.setattr(autotune, "_search", lambda *arguments: (2, "native", []))
    for _ in range(2):
        make_plan(EnsembleConfig(devices=1, width=2, conv=conv), trainer("cnn"), 8, LARGE)
    assert telling(records, "kernels: compiled without avx2") == ["WARNING"]


@pytest.mark.usefixtures("not_warned")
def test_that_the_precision_is_float32_for_want_of_kernels_is_told(records, monkeypatch):
    """Also where the configuration does not ask for the kernels."""
    monkeypatch.setattr(native, "unavailable", lambda: "no C++ compiler")
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: False)
    recipe = Recipe(architecture="cnn", precision="auto")
    assert compute_dtype(recipe, jax.local_devices()[0], IMAGES) == jax.numpy.float32
    assert telling(records, "kernels: not used", "precision auto is float32: no C++ compiler") == ["WARNING"]


@pytest.mark.usefixtures("not_warned")
def test_where_the_kernels_are_not_used_nothing_is_told_of_them(records, monkeypatch):
    monkeypatch.setattr(native, "shortcoming", lambda: "compiled without avx2")
    make_plan(EnsembleConfig(devices=1, width=2, conv="unrolled"), trainer("cnn"), 8, LARGE)
    conv_choices(trainer("cnn"), "gpu")
    compute_dtype(Recipe(precision="float32"), jax.local_devices()[0], IMAGES)
    assert telling(records, "kernels") == []


def test_the_kernels_are_part_of_the_provenance_of_what_they_train(monkeypatch):
    monkeypatch.setattr(native, "description", lambda: "avx2 fma, GCC 12.2.0")
    with_kernels, without = (plan_of(2, conv, tuple(jax.devices()[:1])).provenance() for conv in ("native", "unrolled"))
    assert with_kernels["kernels"] == "avx2 fma, GCC 12.2.0"
    assert with_kernels["plan"] == "2 at a time, convolutions native, 1 cpu device"
    assert "kernels" not in without
    assert without.items() >= origin().items()


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"ensemble.devices: 99 requested, \d+ found"):
        make_plan(EnsembleConfig(devices=99), trainer(), 8, LARGE)


@pytest.mark.parametrize("multiplies", [False, True])
def test_auto_precision_is_float32_where_bfloat16_is_slow(monkeypatch, multiplies: bool):
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: multiplies)

    class Old:
        platform, compute_capability = "gpu", "6.0"

    class New:
        platform, compute_capability = "gpu", "9.0"

    cpu = jax.devices("cpu")[0]
    in_kernels = "bfloat16" if multiplies else "float32"
    assert compute_dtype(Recipe(architecture="resnet18"), cpu, IMAGES) == in_kernels
    assert compute_dtype(Recipe(architecture="mlp"), cpu, IMAGES) == in_kernels
    assert compute_dtype(Recipe(architecture="mlp", norm="batch"), cpu, IMAGES) == in_kernels
    assert compute_dtype(Recipe(architecture="mlp", norm="layer"), cpu, IMAGES) == "float32"
    assert compute_dtype(Recipe(architecture="mlp", activation="tanh"), cpu, IMAGES) == "float32"
    assert compute_dtype(Recipe(architecture="package.module:network"), cpu, IMAGES) == "float32"
    assert compute_dtype(Recipe(), Old(), IMAGES) == "float32"
    assert compute_dtype(Recipe(), New(), IMAGES) == "bfloat16"
    assert compute_dtype(Recipe(precision="bfloat16"), Old(), IMAGES) == "bfloat16"
    assert compute_dtype(Recipe(architecture="mlp"), cpu, FEATURES) == "float32"
    assert compute_dtype(Recipe(architecture="mlp"), New(), FEATURES) == "float32"
    assert compute_dtype(Recipe(architecture="mlp", precision="bfloat16"), cpu, FEATURES) == "bfloat16"


def test_only_a_lack_of_memory_is_forgiven():
    assert out_of_memory(MemoryError())
    assert not out_of_memory(jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no"))

    def bad() -> float:
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID"):
        attempt(bad)


def test_a_rig_trains_and_counts_its_images():
    timer = StepTimer(trainer(), plan_of(3, "unrolled", tuple(jax.local_devices()[:1])))
    assert images_per_second(timer) > 0
    assert timer.images % (3 * 4) == 0


def test_operations_of_an_mlp_are_three_times_its_weights():
    """Output, input gradient, kernel gradient: 2 operations a weight each; the first layer has no input gradient."""
    weights = 16 * 4 + 4 * 4 + 4 * 3
    expected = 2 * (3 * weights - 16 * 4)
    assert training_flops_per_image(trainer()) == pytest.approx(expected, rel=0.6)
    assert training_flops_per_image(trainer()) >= expected


@pytest.mark.parametrize(("used", "threads"), [(1, 7), (2, 3), (4, 1), (8, 1)])
def test_devices_divide_the_cores(used: int, threads: int, monkeypatch):
    monkeypatch.setattr(plan, "core_count", lambda: 7)
    assert plan_of(8, "native", tuple(jax.local_devices()[:1]) * used).threads == threads


@needs_kernels
def test_all_kernels_of_convolutions_get_the_threads(monkeypatch):
    monkeypatch.setattr(plan, "core_count", lambda: 7)
    programs = Programs(trainer("resnet8"), plan_of(1, "native", tuple(jax.local_devices()[:1])))
    program = programs.lower(1, 8, 1).as_text()
    calls = re.findall(r"@jaxmia_(?:conv|norm)_.*", program)
    assert len(calls) > 20
    assert all("threads = 7" in call for call in calls)
