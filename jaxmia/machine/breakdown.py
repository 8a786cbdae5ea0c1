"""Measures where the time of a training step goes, with JAX's profiler."""

import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxmia.training.measure import StepTimer

KERNELS, NORMALISATION = "jaxmia's kernels: convolutions and products", "jaxmia's kernels: normalisation"
UPDATE = "jaxmia's kernels: optimizer"
PRODUCTS, COPIES = "XLA: convolutions and matrix products", "XLA: copies and conversions"
REST, WAITING = "XLA: elementwise and reductions", "waiting"
"""Kinds of work, and the time in which a device does none."""

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?(?P<name>\S+) = .*?[\])}] (?P<opcode>[a-z][\w-]*)\(")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_ENVELOPES = {"while", "call", "conditional", "parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
"""Operations that do no work of their own: what they enclose is counted itself."""


@dataclass(frozen=True)
class Breakdown:
    """Division of the time of a training step.

    Attributes:
        name: Name of the method that was profiled.
        width: Number of models trained at once.
        step_seconds: Seconds of a step of all models.
        shares: Fraction of the devices' time by kind of work, most first; they sum to one.
    """

    name: str
    width: int
    step_seconds: float
    shares: dict[str, float]


def profile(timer: StepTimer, name: str, seconds: float = 1.0) -> Breakdown | None:
    """Profiles training in steady state; None if the profiler sees nothing of it.

    Args:
        timer: Training to profile.
        name: Name of the method.
        seconds: Approximate duration of the training that is profiled.
    """
    timer.warm_up()
    rate = timer.images_per_second(seconds)
    calls = max(1, round(seconds * rate / timer.images))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=_without_python()):
            elapsed = sum(timer.seconds() for _ in range(calls))
        traces = [jax.profiler.ProfileData.from_file(str(path)) for path in Path(folder).rglob("*.xplane.pb")]
        spent = seconds_by_instruction(traces)
    available = elapsed * len(timer.plan.devices)
    shares = shares_of(spent, timer.program.as_text() or "", available)
    if shares.get(WAITING) == 1:
        return None
    return Breakdown(name, timer.plan.width, elapsed / (calls * timer.steps), shares)


def _without_python() -> jax.profiler.ProfileOptions:
    """Options of a trace without Python's own calls, which take long to save."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return options


def seconds_by_instruction(traces: Sequence[Any]) -> dict[str, float]:
    """Sums the seconds of events over threads and streams, by the instruction of the program.

    On a GPU an event is a kernel, whose `hlo_op` names its instruction; on a CPU the event has its name.

    Args:
        traces: Traces, each a `jax.profiler.ProfileData`.
    """
    planes = [plane for trace in traces for plane in trace.planes]
    on_gpu = any(plane.name.startswith("/device:GPU") for plane in planes)
    spent: dict[str, float] = defaultdict(float)
    for plane in planes:
        if plane.name.startswith("/device:GPU" if on_gpu else "/host:CPU"):
            for line in plane.lines:
                for event in line.events:
                    name = dict(event.stats).get("hlo_op", event.name) if on_gpu else event.name
                    spent[str(name)] += event.duration_ns / 1e9
    return spent


def shares_of(spent: Mapping[str, float], program: str, available: float) -> dict[str, float]:
    """Fraction of the devices' time by kind of work, most first.

    Args:
        spent: Seconds by event; events that are no instruction of the program are left out.
        program: Text of the compiled program.
        available: Seconds of all devices together.
    """
    kinds = _kinds(program)
    totals: dict[str, float] = defaultdict(float)
    for name, seconds in spent.items():
        if kind := kinds.get(name):
            totals[kind] += seconds
    totals[WAITING] = max(0.0, available - sum(totals.values()))
    whole = sum(totals.values())
    return {kind: totals[kind] / whole for kind in sorted(totals, key=totals.__getitem__, reverse=True)}


def _kinds(program: str) -> dict[str, str]:
    """Kind of work of each instruction of a compiled program, by name."""
    kinds = {}
    for line in program.splitlines():
        found = _INSTRUCTION.match(line)
        if found and found["opcode"] not in _ENVELOPES:
            target = _TARGET.search(line)
            kinds[found["name"]] = _kind(found["name"], found["opcode"], target[1] if target else "")
    return kinds


def _kind(name: str, opcode: str, target: str) -> str:
    if target.startswith("jaxmia_"):
        own = {"jaxmia_norm_forward": NORMALISATION, "jaxmia_norm_backward": NORMALISATION, "jaxmia_sgd": UPDATE}
        return own.get(target, KERNELS)
    if opcode in {"dot", "convolution"} or re.search("gemm|cublas|cudnn|ynn", f"{name} {target}"):
        return PRODUCTS
    if opcode in {"copy", "transpose", "convert"} or re.fullmatch(r"(copy|convert|bitcast|wrapped|_|\.|\d)+", name):
        return COPIES
    return REST
