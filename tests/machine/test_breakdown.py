import json
from types import SimpleNamespace
from typing import Any

import pytest

from jaxmia.config import EnsembleConfig, Recipe
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.machine.bench import page
from jaxmia.machine.breakdown import (
    COPIES,
    KERNELS,
    NORMALISATION,
    PRODUCTS,
    REST,
    UPDATE,
    WAITING,
    Breakdown,
    profile,
    seconds_by_instruction,
    shares_of,
)
from jaxmia.training.devices import make_devices
from jaxmia.training.measure import StepTimer
from jaxmia.training.plan import plan_of
from jaxmia.training.trainer import make_trainer
from tests.kernels import needs_kernels
from tests.machine.test_bench import SCALE, SUBJECT

PROGRAM = """
HloModule jit_step
%body (p: (s32[], f32[2])) -> (s32[], f32[2]) {
  %ffi_call.3 = bf16[2,64,8,8,16]{4,3,2,1,0} custom-call(%a, %b), custom_call_target="jaxmia_conv_forward", api=4
  %ffi_call.4 = (bf16[2,4]{1,0}, f32[2]{0}) custom-call(%a), custom_call_target="jaxmia_norm_backward"
  %ffi_call.5 = (f32[2]{0}, f32[2]{0}) custom-call(%a, %b), custom_call_target="jaxmia_sgd"
  %cublas.1 = (f32[8,8]{1,0}, s8[9]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm"
  %ynn_fusion = f32[8,8]{1,0} fusion(%a), kind=kCustom
  %dot.2 = f32[8,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}
  %copy.9 = f32[8,8]{0,1} copy(%a)
  %wrapped_convert = bf16[2]{0} fusion(%a), kind=kLoop
  ROOT %add_select_fusion.1 = f32[2]{0} fusion(%a), kind=kLoop
}
ENTRY %main (p: f32[2]) -> f32[2] {
  %while.5 = (s32[], f32[2]{0}) while(%tuple), condition=%c, body=%body
}
"""


def test_every_instruction_has_its_kind_and_what_encloses_others_none():
    spent = {"ffi_call.3": 4.0, "ffi_call.4": 1.0, "cublas.1": 0.5, "ynn_fusion": 0.25, "dot.2": 0.25}
    spent |= {
        "copy.9": 0.5,
        "wrapped_convert": 0.5,
        "add_select_fusion.1": 1.0,
        "ffi_call.5": 0.6,
        "while.5": 100.0,
        "python": 9.0,
    }
    shares = shares_of(spent, PROGRAM, available=10.0)
    assert shares == pytest.approx(
        {KERNELS: 0.4, NORMALISATION: 0.1, UPDATE: 0.06, PRODUCTS: 0.1, COPIES: 0.1, REST: 0.1, WAITING: 0.14}
    )
    assert next(iter(shares)) == KERNELS


def test_work_beyond_the_clock_leaves_no_waiting():
    assert shares_of({"copy.9": 3.0, "dot.2": 1.0}, PROGRAM, available=2.0) == {
        COPIES: 0.75,
        PRODUCTS: 0.25,
        WAITING: 0,
    }


def trace(name: str, *events: tuple[str, float, dict[str, str]]) -> Any:
    made = [SimpleNamespace(name=event, duration_ns=1e9 * spent, stats=stats.items()) for event, spent, stats in events]
    return SimpleNamespace(name=name, lines=[SimpleNamespace(events=made[:1]), SimpleNamespace(events=made[1:])])


def test_events_are_summed_over_threads_and_kernels_by_their_instruction():
    host = trace("/host:CPU", ("dot.2", 1.0, {}), ("dot.2", 2.0, {}), ("copy.9", 1.0, {}))
    assert seconds_by_instruction([SimpleNamespace(planes=[host])]) == {"dot.2": 3.0, "copy.9": 1.0}
    device = trace("/device:GPU:0", ("sm90_gemm", 1.0, {"hlo_op": "cublas.1"}), ("MemcpyD2D", 2.0, {}))
    assert seconds_by_instruction([SimpleNamespace(planes=[host, device])]) == {"cublas.1": 1.0, "MemcpyD2D": 2.0}


@needs_kernels
@pytest.mark.slow
def test_a_real_step_is_mostly_its_kernels_and_all_of_its_time_is_told():
    recipe = Recipe(architecture="resnet8", width=8, batch_size=16)
    trainer = make_trainer(recipe, (12, 12, 3), 4, Preprocessing())
    found = profile(StepTimer(trainer, plan_of(2, "native", make_devices(EnsembleConfig())[:1])), "native")
    assert found
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares[KERNELS] > 0.1
    assert found.shares[NORMALISATION] > 0.01
    assert 0 < found.step_seconds < 5


def test_the_page_says_where_a_step_goes():
    step = Breakdown("native", 4, 0.0123, {KERNELS: 0.75, WAITING: 0.25})
    result = {"subject": SUBJECT, "origin": dict.fromkeys(("device", "jax", "torch", "commit"), "x"), "rows": []}
    result |= {"scale": json.loads(json.dumps(SCALE.__dict__)), "step": step.__dict__}
    text = page(result)
    assert "native, 4 models: 12.3 ms a step" in text
    assert f"| {KERNELS} | 75% |\n| waiting | 25% |" in text
    assert "Where a step's time goes" not in page({**result, "step": None})
