"""The command that compiles training for a GPU that is not present."""

import argparse
import json
import logging
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax: the plugin would look for a GPU

import jax.numpy as jnp
from jax.experimental import topologies

import benchmarks.program
from benchmarks.program.account import kernels, least_seconds
from jaxmia.config import Augment, Recipe
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.files import write_text
from jaxmia.models import Network
from jaxmia.provenance import origin
from jaxmia.training.plan import plan_of
from jaxmia.training.programs import Programs, footprint
from jaxmia.training.trainer import Trainer

RESULTS = Path(__file__).parents[1] / "results"
TARGET = Path(__file__).with_name("h100.textproto")
POOL, STEPS = 28_000, 64
CASES = {
    "resnet18": (128, (("sequential", 8), ("unrolled", 8), ("grouped", 8), ("matmul", 8))),
    "resnet8": (64, (("sequential", 32), ("unrolled", 32), ("grouped", 32), ("matmul", 32))),
}
"""Batch size, and lowerings with their widths, of each network."""


def count(architecture: str, batch_size: int, conv: str, width: int) -> dict[str, Any]:
    """Counts the work of a training step of one model, per image unless stated otherwise."""
    device = topologies.get_topology_desc(platform="cuda", target_config=TARGET.read_text(), topology="1x1x1").devices[
        0
    ]
    shadow = Recipe(architecture=architecture, batch_size=batch_size, augment=Augment(crop=4, flip=True))
    trainer = Trainer(Network(architecture, (32, 32, 3), 9), shadow, Preprocessing(mean=(0.5,), std=(0.25,)))
    trainer = replace(trainer, compute=replace(trainer.compute, dtype=jnp.dtype(jnp.bfloat16)))
    plan = plan_of(width, conv, (device,))
    programs = Programs(trainer, plan)
    compiled = programs.lower(width, POOL, STEPS).compile()
    images = width * STEPS * batch_size
    found = kernels(str(compiled.as_text()))
    moved, launched, flops = Counter[str](), Counter[str](), 0
    for kernel in found:
        moved[kernel.kind] += kernel.times * kernel.bytes
        launched[kernel.kind] += kernel.times
        flops += kernel.times * kernel.flops
    least = sum(kernel.times * least_seconds(kernel) for kernel in found)
    return {
        "architecture": architecture,
        "batch_size": batch_size,
        "how": conv,
        "width": width,
        "kernels": {kind: launched[kind] / (width * STEPS) for kind, _ in moved.most_common()},
        "bytes": {kind: moved[kind] / images for kind, _ in moved.most_common()},
        "flops": flops / images,
        "least_seconds": least / images,
        "footprint": footprint(compiled),
    }


def page(cases: list[dict[str, Any]], made: dict[str, Any]) -> str:
    """Formats the counts as Markdown."""
    lines = [
        "# Work of the training program on an H100",
        "",
        "Training programs that XLA compiled for an H100, which was not present, on images of 32 x 32 x 3 in bfloat16:",
        f"counted, not timed. Made by `python -m benchmarks.program` at commit {made['commit']}, jax {made['jax']}.",
        "Bytes are those of each kernel's operands and results, once. The lower bound on the time assumes 3.0 TB/s or",
        "798 TFLOP/s, whichever is slower, for every kernel, as measured on one H100, without overlap or gaps. cuDNN's",
        "choice of algorithms is not included, since it needs the GPU. Kernels are those of one step of one model.",
        "",
        "| network, batch | lowering | models | kernels | MB/image | GFLOP/image | lower bound per image | memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(_row, cases),
    ]
    for case in cases:
        lines += [
            "",
            f"## {case['architecture']}, {case['how']}, {case['width']} together",
            "",
            "| kind | MB/image | kernels |",
            "| --- | --- | --- |",
            *(f"| {kind} | {size / 1e6:.2f} | {case['kernels'][kind]:.1f} |" for kind, size in case["bytes"].items()),
        ]
    return "\n".join(lines) + "\n"


def _row(case: dict[str, Any]) -> str:
    launched, moved = sum(case["kernels"].values()), sum(case["bytes"].values())
    counted = f"{launched:.0f} | {moved / 1e6:.2f} | {case['flops'] / 1e9:.3f} | {case['least_seconds'] * 1e6:.2f} us"
    network = f"{case['architecture']}, {case['batch_size']}"
    return f"| {network} | {case['how']} | {case['width']} | {counted} | {case['footprint'] / 2**30:.1f} GiB |"


def main() -> None:
    """Counts all cases, or those of one architecture."""
    parser = argparse.ArgumentParser(
        description=benchmarks.program.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", choices=tuple(CASES), nargs="*", default=tuple(CASES))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of program_h100.json and .md")
    options = parser.parse_args()
    logging.getLogger("jax").setLevel(logging.ERROR)
    cases = [
        count(architecture, CASES[architecture][0], conv, width)
        for architecture in options.architecture
        for conv, width in CASES[architecture][1]
    ]
    made = origin()
    write_text(options.out / "program_h100.json", json.dumps({"origin": made, "cases": cases}, indent=2) + "\n")
    text = page(cases, made)
    write_text(options.out / "program_h100.md", text)
    print(text)


if __name__ == "__main__":
    main()
