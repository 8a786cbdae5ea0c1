"""Counts the kernels, bytes moved and floating-point operations of a compiled program from its text (HLO)."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_ARRAY = re.compile(rf"\b({'|'.join(_SIZES)})\[([\d,]*)\]")
_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_NO_KERNEL = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}
_PARTS = {"dynamic-slice", "slice", "gather"}
"""Operations that read only a part of their first operand."""

BANDWIDTH, MATRIX_RATE = 3.0e12, 798e12
"""Bytes and bfloat16 operations per second measured on one H100, for large arrays and large matrix products."""

CONVOLUTIONS = {
    "__cudnn$convForward": "convolutions, forward",
    "__cudnn$convBackwardInput": "convolutions, input gradients",
    "__cudnn$convBackwardFilter": "convolutions, kernel gradients",
}
PRODUCTS, REDUCTIONS, LAYOUT, ELEMENTWISE = (
    "matrix products",
    "reductions",
    "copies, transpositions, slices",
    "elementwise",
)
_MOVES = {
    *("parameter", "constant", "bitcast", "tuple", "convert", "broadcast", "reshape", "transpose", "copy"),
    *("slice", "dynamic-slice", "dynamic-update-slice", "concatenate", "pad"),
}
"""Operations that do no work."""


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    text: str

    def called(self, attribute: str) -> str:
        """Name of the computation in an attribute."""
        found = re.search(rf"{attribute}=%?([\w.-]+)", self.text)
        assert found, self.text
        return found[1]


Computations = dict[str, dict[str, Instruction]]


@dataclass(frozen=True)
class Kernel:
    """An operation that runs as one kernel.

    Attributes:
        name: Name in the program.
        kind: Kind of work.
        times: Number of times that the program runs it.
        bytes: Bytes moved in each run, counting every operand and result once.
        flops: Floating-point operations of convolutions and matrix products in each run.
    """

    name: str
    kind: str
    times: int
    bytes: int
    flops: int


def kernels(text: str) -> list[Kernel]:
    """Lists the kernels of a program for NVIDIA GPUs in order; those in a loop run once per iteration."""
    computations, entry = _read(text)
    return list(_walk(computations, entry, 1))


def least_seconds(kernel: Kernel) -> float:
    """Lower bound on the seconds of a run on an H100, at the measured rates of moving and multiplying."""
    return max(kernel.bytes / BANDWIDTH, kernel.flops / MATRIX_RATE)


def bytes_of(shape: str) -> int:
    """Bytes of an array or tuple whose shape is given as in `bf16[128,32,32,64]{3,2,1,0}`."""
    return sum(
        _SIZES[dtype] * math.prod(int(side) for side in sides.split(",") if side)
        for dtype, sides in _ARRAY.findall(shape)
    )


def _read(text: str) -> tuple[Computations, str]:
    computations: Computations = {}
    entry, current = "", None
    for line in text.splitlines():
        if found := _HEADER.match(line):
            current = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            name, shape, operation, rest = found.groups()
            operands = tuple(re.findall(r"%([\w.-]+)", rest.partition("), ")[0]))
            current[name] = Instruction(name, shape, operation, operands, line)
    return computations, entry


def _walk(computations: Computations, name: str, times: int) -> Iterator[Kernel]:
    computation = computations[name]
    for instruction in computation.values():
        operation = instruction.operation
        if operation == "while":
            turns = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', instruction.text)
            yield from _walk(computations, instruction.called("body"), times * int(turns[1] if turns else 1))
        elif operation == "call":
            yield from _walk(computations, instruction.called("to_apply"), times)
        elif operation not in _NO_KERNEL:
            yield _kernel(computations, computation, instruction, times)


def _kernel(computations: Computations, around: dict[str, Instruction], one: Instruction, times: int) -> Kernel:
    inside = computations[one.called("calls")] if one.operation == "fusion" else {}
    operands = [around[name].shape for name in one.operands if name in around]
    moved = _moved_by_fusion(inside, one.shape) if inside else sum(map(bytes_of, [one.shape, *operands]))
    flops = sum(_product_flops(part, inside) for part in inside.values() if part.operation == "dot")
    target = re.search(r'custom_call_target="([^"]+)"', one.text)
    if target and target[1] in CONVOLUTIONS:
        return Kernel(one.name, CONVOLUTIONS[target[1]], times, moved, _convolution_flops(one, operands, target[1]))
    return Kernel(one.name, _kind(one, inside), times, moved, flops)


def _kind(one: Instruction, inside: dict[str, Instruction]) -> str:
    # Computations on single numbers only determine where to read or write.
    parts = [part for part in inside.values() if _sides(part.shape)] or [one]
    operations = {part.operation for part in parts}
    if "dot" in operations or "gemm" in one.text:
        return PRODUCTS
    if "reduce" in operations:
        return REDUCTIONS
    return LAYOUT if operations <= _MOVES else ELEMENTWISE


def _moved_by_fusion(inside: dict[str, Instruction], result: str) -> int:
    """Bytes that a fusion moves, which are only the read parts of an operand and only the updated part of a result."""
    users: dict[str, list[Instruction]] = {}
    for part in inside.values():
        for operand in part.operands:
            users.setdefault(operand, []).append(part)
    total = bytes_of(result)
    for part in inside.values():
        if part.operation == "dynamic-update-slice":
            total += bytes_of(inside[part.operands[1]].shape) - bytes_of(part.shape)
        elif part.operation == "parameter":
            readers = _beyond_bitcasts(part.name, users)
            if all(reader.operation in _PARTS for reader in readers):
                total += sum(bytes_of(reader.shape) for reader in readers)
            elif not any(_renews(reader, part.name) for reader in readers):
                total += bytes_of(part.shape)
    return total


def _renews(reader: Instruction, name: str) -> bool:
    return reader.operation == "dynamic-update-slice" and reader.operands[0] == name


def _beyond_bitcasts(name: str, users: dict[str, list[Instruction]]) -> list[Instruction]:
    return [
        beyond
        for user in users.get(name, [])
        for beyond in (_beyond_bitcasts(user.name, users) if user.operation == "bitcast" else [user])
    ]


def _convolution_flops(one: Instruction, operands: Sequence[str], target: str) -> int:
    """Operations of a convolution: twice the outputs of the forward one, times window, times input channels."""
    labels = re.search(r"dim_labels=\w+_(\w+)->", one.text)
    size = re.search(r"window=\{size=([\dx]+)", one.text)
    assert labels, one.text
    result, first, second = (_sides(shape) for shape in (one.shape, *operands[:2]))
    kernel, outputs = {
        "__cudnn$convForward": (second, result),
        "__cudnn$convBackwardInput": (second, first),
        "__cudnn$convBackwardFilter": (result, second),
    }[target]
    window = math.prod(map(int, size[1].split("x"))) if size else 1
    return 2 * math.prod(outputs) * window * kernel[labels[1].index("i")]


def _product_flops(one: Instruction, inside: dict[str, Instruction]) -> int:
    """Operations of a matrix product: twice the outputs, times the axes that are summed over."""
    summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.text)
    assert summed, one.text
    left = _sides(inside[one.operands[0]].shape)
    return 2 * math.prod(_sides(one.shape)) * math.prod(left[int(axis)] for axis in summed[1].split(","))


def _sides(shape: str) -> list[int]:
    """Lengths of the axes of the first array of a shape."""
    found = _ARRAY.search(shape)
    assert found, shape
    return [int(side) for side in found[2].split(",") if side]
