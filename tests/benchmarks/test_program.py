import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.program.account import ELEMENTWISE, LAYOUT, PRODUCTS, REDUCTIONS, Kernel, kernels

ROOT = Path(__file__).parents[2]

# A loop of four turns around a strided convolution and its gradients, on batches of eight.
PROGRAM = """HloModule steps, is_scheduled=true

%elementwise (p.0: bf16[8,4,4,32], p.1: f32[32]) -> bf16[8,4,4,32] {
  %p.0 = bf16[8,4,4,32]{3,2,1,0} parameter(0)
  %p.1 = f32[32]{0} parameter(1)
  %wide = f32[8,4,4,32]{3,2,1,0} convert(%p.0)
  %many = f32[8,4,4,32]{3,2,1,0} broadcast(%p.1), dimensions={3}
  %product = f32[8,4,4,32]{3,2,1,0} multiply(%wide, %many)
  ROOT %narrow = bf16[8,4,4,32]{3,2,1,0} convert(%product)
}

%moments (p.2: bf16[8,4,4,32]) -> f32[32] {
  %p.2 = bf16[8,4,4,32]{3,2,1,0} parameter(0)
  %wide.2 = f32[8,4,4,32]{3,2,1,0} convert(%p.2)
  %zero = f32[] constant(0)
  ROOT %sum = f32[32]{0} reduce(%wide.2, %zero), dimensions={0,1,2}, to_apply=%add
}

%one_model (p.3: f32[16,32], p.4: s32[]) -> f32[1,32] {
  %p.3 = f32[16,32]{1,0} parameter(0)
  %p.4 = s32[] parameter(1)
  %nothing = s32[] constant(0)
  %next = s32[] add(%p.4, %nothing)
  ROOT %slice = f32[1,32]{1,0} dynamic-slice(%p.3, %next, %nothing), dynamic_slice_sizes={1,32}
}

%renew (p.5: f32[16,32], p.6: f32[1,32], p.7: s32[]) -> f32[16,32] {
  %p.5 = f32[16,32]{1,0} parameter(0)
  %p.6 = f32[1,32]{1,0} parameter(1)
  %p.7 = s32[] parameter(2)
  %nothing.2 = s32[] constant(0)
  ROOT %update = f32[16,32]{1,0} dynamic-update-slice(%p.5, %p.6, %p.7, %nothing.2)
}

%logits (p.8: bf16[8,32], p.9: bf16[32,9]) -> f32[8,9] {
  %p.8 = bf16[8,32]{1,0} parameter(0)
  %p.9 = bf16[32,9]{1,0} parameter(1)
  ROOT %dot = f32[8,9]{1,0} dot(%p.8, %p.9), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[16,32])) -> (s32[], f32[16,32]) {
  %state = (s32[], f32[16,32]{1,0}) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  %stats = f32[16,32]{1,0} get-tuple-element(%state), index=1
  %x = bf16[8,8,8,16]{3,2,1,0} constant({...})
  %w = bf16[32,3,3,16]{3,2,1,0} constant({...})
  %conv = (bf16[8,4,4,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3 stride=2x2 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %y = bf16[8,4,4,32]{3,2,1,0} get-tuple-element(%conv), index=0
  %gain = f32[32]{0} fusion(%y), kind=kInput, calls=%moments
  %z = bf16[8,4,4,32]{3,2,1,0} fusion(%y, %gain), kind=kLoop, calls=%elementwise
  %dx = (bf16[8,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%z, %w), window={size=3x3 stride=2x2 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %dw = (bf16[32,3,3,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %z), window={size=3x3 stride=2x2 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %row = f32[1,32]{1,0} fusion(%stats, %turn), kind=kLoop, calls=%one_model
  %stats.2 = f32[16,32]{1,0} fusion(%stats, %row, %turn), kind=kLoop, calls=%renew
  ROOT %out = (s32[], f32[16,32]{1,0}) tuple(%turn, %stats.2)
}

ENTRY %main (start: (s32[], f32[16,32]), a: bf16[8,32], b: bf16[32,9]) -> f32[8,9] {
  %start = (s32[], f32[16,32]{1,0}) parameter(0)
  %a = bf16[8,32]{1,0} parameter(1)
  %b = bf16[32,9]{1,0} parameter(2)
  %loop = (s32[], f32[16,32]{1,0}) while(%start), condition=%until, body=%body, \
backend_config={"known_trip_count":{"n":"4"}}
  ROOT %gemm = f32[8,9]{1,0} fusion(%a, %b), kind=kCustom, calls=%logits
}
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Kernel]:
    return {kernel.name: kernel for kernel in kernels(PROGRAM)}


def test_what_a_loop_holds_runs_at_every_turn(found: dict[str, Kernel]):
    assert {name: kernel.times for name, kernel in found.items()} == {
        **dict.fromkeys(("conv", "gain", "z", "dx", "dw", "row", "stats.2"), 4),
        "gemm": 1,
    }


def test_a_convolution_and_its_gradients_multiply_alike(found: dict[str, Kernel]):
    multiplied = 2 * (8 * 4 * 4 * 32) * (3 * 3 * 16)
    assert [found[name].flops for name in ("conv", "dx", "dw")] == [multiplied] * 3
    assert len({found[name].kind for name in ("conv", "dx", "dw")}) == 3
    x, w, y = 2 * 8 * 8 * 8 * 16, 2 * 32 * 3 * 3 * 16, 2 * 8 * 4 * 4 * 32
    assert [found[name].bytes for name in ("conv", "dx", "dw")] == [x + w + y] * 3


def test_a_product_is_summed_over_what_both_have(found: dict[str, Kernel]):
    assert (found["gemm"].kind, found["gemm"].flops) == (PRODUCTS, 2 * 8 * 9 * 32)
    assert found["gemm"].bytes == 2 * (8 * 32 + 32 * 9) + 4 * 8 * 9


def test_fused_operations_read_and_write_once(found: dict[str, Kernel]):
    y = 2 * 8 * 4 * 4 * 32
    assert (found["gain"].kind, found["gain"].bytes) == (REDUCTIONS, y + 4 * 32)
    assert (found["z"].kind, found["z"].bytes) == (ELEMENTWISE, 2 * y + 4 * 32)


def test_of_a_slice_only_the_slice_moves(found: dict[str, Kernel]):
    row = 4 * 32
    assert (found["row"].kind, found["row"].bytes) == (LAYOUT, 2 * row + 4)  # and the number of the turn
    assert (found["stats.2"].kind, found["stats.2"].bytes) == (LAYOUT, 2 * row + 4)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("jax_cuda12_plugin"), reason="jax-cuda12-plugin is not installed")
def test_a_residual_network_multiplies_what_its_layers_do(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.program", "--architecture", "resnet8", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=500, env=dict(os.environ))
    cases = {case["how"]: case for case in json.loads((tmp_path / "program_h100.json").read_text())["cases"]}
    stages = ((16, 32, 16, 0), (16, 16, 32, 16), (32, 8, 64, 32))
    forward = 2 * 32 * 32 * 9 * 3 * 16
    for channels, side, features, shortcut in stages:
        forward += 2 * side**2 * features * (9 * channels + 9 * features + shortcut)
    # The stem needs no input gradient; the last layer is small.
    trained = 3 * forward - 2 * 32 * 32 * 9 * 3 * 16
    for how in ("sequential", "unrolled"):
        assert trained < cases[how]["flops"] < 1.001 * trained
        assert cases[how]["kernels"]["convolutions, forward"] == 9
    assert cases["sequential"]["bytes"].keys() >= {REDUCTIONS, ELEMENTWISE}
