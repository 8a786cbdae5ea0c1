"""Reads the pickles of `torch.save` as data: nothing that they name is imported, and no code in them is run.

This is an interpreter of the few opcodes that such files use. A name in the pickle is only looked up in a table of
functions of this module, which rebuild tensors, NumPy arrays and plain containers; an instance of a class becomes a
`StoredObject`, and an object without a plain value, such as a quantised tensor, an `Unreadable` with a description.

Memory and time are bounded by the size of the file: it limits the number of opcodes, each opcode takes at most some 64
bytes, a record is read once, and views of it may repeat each of its bytes only a few times.
"""

import math
import pickle
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from struct import unpack_from
from typing import Any

import numpy as np
import torch

from bridge.stored import Dtype, Global, Storage, StoredArray, StoredObject, Unreadable, describe_value

_MAX_VIEWS = 4
"""Number of times that views may repeat each byte of a file: an image of one channel expanded to three takes three."""
_FREE_BYTES = 2**20
_FREE_OPCODES = 2**20
_BYTES_AN_OPCODE = 8
"""Bytes of a file for each opcode beyond the free ones; files of images have some 30 bytes per opcode."""
_LARGEST_KEY = 2**31

_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.storage.UntypedStorage": torch.uint8,
}
_PLAIN_DTYPES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
_UNREADABLE = {
    "torch._utils._rebuild_qtensor": "quantised tensor",
    "torch._utils._rebuild_sparse_tensor": "sparse tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta tensor, which has no values",
    "torch._utils._rebuild_nested_tensor": "nested tensor",
    "torch._utils._rebuild_wrapper_subclass": "tensor of a wrapper class",
    "torch._utils._rebuild_device_tensor_from_numpy": "tensor of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "tensor of another device",
    "torch._utils._rebuild_parameter_with_state": "Parameter with attributes",
    "torch._tensor._rebuild_from_type_v2": "Tensor with attributes",
    "torch.serialization._get_layout": "layout",
    "torch.device": "device",
    "torch.Tensor": "class torch.Tensor",
    "torch.nn.parameter.Parameter": "class torch.nn.Parameter",
    "builtins.bytearray": "bytearray",
    "builtins.set": "set",
    "builtins.complex": "complex number",
    "collections.Counter": "Counter",
}


@dataclass
class Unpickler:
    """Reads one pickle.

    Attributes:
        pickled: The pickle.
        record: Returns the bytes of a record by its name.
        file_size: Size of the file in bytes, which bounds the memory of its content.
        classes: Full names of classes whose instances become a `StoredObject`.
        byte_order: Byte order of the records, `little` or `big`.
        foreign: Names that the pickle refers to and that are not allowed, once it is read.
    """

    pickled: bytes
    record: Callable[[str], bytearray]
    file_size: int
    classes: Sequence[str] = ()
    byte_order: str = "little"
    foreign: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._position = 0
        self._stack: list[object] = []
        self._marked: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._storages: dict[object, Storage] = {}
        self._viewed = 0

    def load(self) -> object:
        """Reads the object.

        Raises:
            pickle.UnpicklingError: The pickle exceeds a bound of the file's size, or does what no such file does.
            Exception: A damaged pickle can raise anything.
        """
        for _ in range(_FREE_OPCODES + self.file_size // _BYTES_AN_OPCODE):
            opcode = self._take(1)
            if opcode == pickle.STOP:
                return self._stack.pop()
            try:
                act = _ACTS[opcode]
            except KeyError:
                raise pickle.UnpicklingError(f"opcode {opcode!r} does not occur in files of torch.save") from None
            act(self)
        raise pickle.UnpicklingError(f"its pickle has more instructions than a file of {self.file_size} bytes may have")

    def _take(self, count: int) -> bytes:
        start, self._position = self._position, self._position + count
        if self._position > len(self.pickled):
            raise EOFError("the pickle ends early")
        return self.pickled[start : self._position]

    def _number(self, form: str, size: int) -> Any:
        return unpack_from(form, self._take(size))[0]

    def _line(self) -> str:
        end = self.pickled.index(b"\n", self._position)
        return self._take(end + 1 - self._position)[:-1].decode()

    def _protocol(self) -> None:
        version = self._number("<B", 1)
        if version != 2:
            raise pickle.UnpicklingError(f"pickle protocol {version}, expected 2, the default of torch.save")

    def _keep(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _marked_items(self) -> list[object]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("the pickle's stack is empty")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _append(self, items: list[object]) -> None:
        owner = self._stack[-1]
        if type(owner) is not list:
            raise pickle.UnpicklingError(f"appends to a {describe_value(owner)}")
        owner.extend(items)

    def _set(self, items: list[object]) -> None:
        owner = self._stack[-1]
        if isinstance(owner, Unreadable):
            return
        if not isinstance(owner, dict):
            raise pickle.UnpicklingError(f"sets entries of a {describe_value(owner)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys may take long to compare, or nest so deeply that comparing them crashes the program.
            if type(key) is not str and not (isinstance(key, int) and abs(key) < _LARGEST_KEY):
                raise pickle.UnpicklingError(f"has a {describe_value(key)} as a key, allowed are text and integers")
            owner[key] = value

    def _global(self) -> None:
        module, name = self._line(), self._line()
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full in _STORAGES:
            self._push(_STORAGES[full])
        # Not by getattr, which imports whole packages for some names.
        elif isinstance(dtype := vars(torch).get(name) if module == "torch" else None, torch.dtype):
            self._push(dtype)
        elif full in self.classes or full in _CALLS or full in _NAMED:
            self._push(Global(full))
        elif full in _UNREADABLE or (module == "torch" and (name.endswith("Storage") or name in _QSCHEMES)):
            self._push(Unreadable(_UNREADABLE.get(full, full)))
        else:
            self.foreign.add(full)
            self._push(Unreadable(full))

    def _call(self) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if type(arguments) is not tuple:
            raise pickle.UnpicklingError(f"calls with a {describe_value(arguments)}")
        if isinstance(called, Unreadable):
            self._push(called)
        elif isinstance(called, Global) and called.name in _CALLS:
            self._push(_CALLS[called.name](self, *arguments))
        elif isinstance(called, Global) and called.name in self.classes and not arguments:
            self._push(StoredObject())
        else:
            raise pickle.UnpicklingError(
                f"calls {called.name if isinstance(called, Global) else describe_value(called)}"
            )

    def _build(self) -> None:
        state, owner = self._stack.pop(), self._stack[-1]
        if isinstance(owner, StoredObject):
            owner.attributes = state
        elif isinstance(owner, StoredArray) and isinstance(state, tuple):
            owner.value = self._array(*state)
        elif isinstance(owner, Dtype) and isinstance(state, tuple):
            owner.value = owner.value.newbyteorder(state[1])
        elif not isinstance(owner, OrderedDict | Unreadable):  # attributes of a state_dict are versions of modules
            raise pickle.UnpicklingError(f"gives a {describe_value(owner)} a state")

    def _persistent(self) -> None:
        _, dtype, key, _, count = self._stack.pop()  # type: ignore[misc]
        if isinstance(dtype, Unreadable):
            self._push(dtype)
            return
        if type(key) is not str or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"names storage {describe_value(key)} of {describe_value(dtype)}")
        if key not in self._storages:
            content = self.record(f"data/{key}")
            if not isinstance(count, int) or count * dtype.itemsize != len(content):
                raise pickle.UnpicklingError(f"data/{key} has {len(content)} bytes, the pickle says {count} {dtype}")
            if self.byte_order != sys.byteorder and dtype.itemsize > 1:
                width = dtype.itemsize // (2 if dtype.is_complex else 1)
                content = bytearray(np.frombuffer(content, f"u{width}").byteswap().tobytes())
            self._storages[key] = Storage(content, dtype)
        self._push(self._storages[key])

    def _tensor(
        self, storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object
    ) -> object:
        del rest  # whether it needs gradients, hooks, metadata
        if isinstance(storage, Unreadable):
            return storage
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError(f"makes a tensor of a {describe_value(storage)}")
        return self._view(storage, storage.dtype, offset, size, stride)

    def _tensor_of_dtype(
        self,
        storage: object,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: object,
        hooks: object,
        dtype: object,
        *rest: object,
    ) -> object:
        del requires_grad, hooks, rest
        if isinstance(dtype, torch.dtype) and isinstance(storage, Storage):
            return self._view(storage, dtype, offset, size, stride)
        return storage if isinstance(storage, Unreadable) else Unreadable(describe_value(dtype))

    def _view(
        self, storage: Storage, dtype: torch.dtype, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> torch.Tensor:
        numbers = (offset, *size, *stride)
        if not all(type(number) is int and 0 <= number < sys.maxsize for number in numbers) or len(size) != len(stride):
            raise pickle.UnpicklingError(f"a tensor is {size} with strides {stride}")
        count = math.prod(size)
        self._count(count * dtype.itemsize)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if count and (last + 1) * dtype.itemsize > len(storage.content):
            raise pickle.UnpicklingError(f"a tensor of {list(size)} reaches beyond its {len(storage.content)} bytes")
        if not count:
            return torch.empty(size, dtype=dtype)
        return torch.frombuffer(storage.content, dtype=torch.uint8).view(dtype).as_strided(size, stride, offset)

    def _count(self, viewed: int) -> None:
        """Rejects views that repeat stored bytes more often than any benign file does."""
        self._viewed += viewed
        if self._viewed > bytes_in_memory(self.file_size):
            raise pickle.UnpicklingError(
                f"its tensors repeat stored bytes too often: they have {self._viewed} bytes, the file {self.file_size}"
            )

    def _parameter(self, data: object, *rest: object) -> object:
        del rest
        return data

    def _array(
        self, version: object, shape: tuple[int, ...], dtype: object, fortran_order: object, raw: object
    ) -> np.ndarray:
        del version
        if not isinstance(dtype, Dtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError(f"a NumPy array is a {describe_value(dtype)} of {describe_value(raw)}")
        self._count(len(raw))
        return np.frombuffer(raw, dtype.value).reshape(shape, order="F" if fortran_order else "C")


def bytes_in_memory(file_size: int) -> int:
    """Largest number of bytes that the arrays of a file of that size may have."""
    return _FREE_BYTES + _MAX_VIEWS * file_size


def _ordered_dict(reader: Unpickler, *items: object) -> OrderedDict:
    if items and items != ([],):
        raise pickle.UnpicklingError("an OrderedDict is created with arguments")
    return OrderedDict()


def _encoded(reader: Unpickler, text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes are not in latin1")
    return text.encode("latin1")


def _dtype(reader: Unpickler, code: str, *rest: object) -> Dtype:
    if type(code) is not str or code not in _PLAIN_DTYPES:
        raise pickle.UnpicklingError(f"NumPy type {code!r} is none of {', '.join(sorted(_PLAIN_DTYPES))}")
    return Dtype(np.dtype(code))


def _scalar(reader: Unpickler, dtype: Dtype, raw: bytes) -> np.generic:
    return np.frombuffer(raw, dtype.value, count=1)[0]


def _size(reader: Unpickler, lengths: tuple[int, ...] = ()) -> tuple[int, ...]:
    return lengths


_NAMED = frozenset(("numpy.ndarray",))
_QSCHEMES = frozenset(
    f"{scope}_{kind}"
    for scope in ("per_tensor", "per_channel")
    for kind in ("affine", "symmetric", "affine_float_qparams")
)
_CALLS: Mapping[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": Unpickler._tensor,
    "torch._utils._rebuild_tensor_v2": Unpickler._tensor,
    "torch._utils._rebuild_tensor_v3": Unpickler._tensor_of_dtype,
    "torch._utils._rebuild_parameter": Unpickler._parameter,
    "torch.Size": _size,
    "collections.OrderedDict": _ordered_dict,
    "_codecs.encode": _encoded,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": lambda reader, *arguments: StoredArray() for core in ("core", "_core")},
}
_ACTS: Mapping[bytes, Callable[[Unpickler], None]] = {
    pickle.PROTO: lambda reader: reader._protocol(),
    pickle.MARK: lambda reader: reader._mark(),
    pickle.NONE: lambda reader: reader._push(None),
    pickle.NEWTRUE: lambda reader: reader._push(True),
    pickle.NEWFALSE: lambda reader: reader._push(False),
    pickle.BININT: lambda reader: reader._push(reader._number("<i", 4)),
    pickle.BININT1: lambda reader: reader._push(reader._number("<B", 1)),
    pickle.BININT2: lambda reader: reader._push(reader._number("<H", 2)),
    pickle.LONG1: lambda reader: reader._push(pickle.decode_long(reader._take(reader._number("<B", 1)))),
    pickle.BINFLOAT: lambda reader: reader._push(reader._number(">d", 8)),
    pickle.BINUNICODE: lambda reader: reader._push(
        str(reader._take(reader._number("<I", 4)), "utf-8", "surrogatepass")
    ),
    pickle.SHORT_BINSTRING: lambda reader: reader._push(reader._take(reader._number("<B", 1)).decode("ascii")),
    pickle.EMPTY_TUPLE: lambda reader: reader._push(()),
    pickle.EMPTY_LIST: lambda reader: reader._push([]),
    pickle.EMPTY_DICT: lambda reader: reader._push({}),
    pickle.TUPLE: lambda reader: reader._push(tuple(reader._marked_items())),
    pickle.TUPLE1: lambda reader: reader._tuple_of(1),
    pickle.TUPLE2: lambda reader: reader._tuple_of(2),
    pickle.TUPLE3: lambda reader: reader._tuple_of(3),
    pickle.APPEND: lambda reader: reader._append([reader._stack.pop()]),
    pickle.APPENDS: lambda reader: reader._append(reader._marked_items()),
    pickle.SETITEM: lambda reader: reader._set([reader._stack.pop(-2), reader._stack.pop()]),
    pickle.SETITEMS: lambda reader: reader._set(reader._marked_items()),
    pickle.BINPUT: lambda reader: reader._keep(reader._number("<B", 1)),
    pickle.LONG_BINPUT: lambda reader: reader._keep(reader._number("<I", 4)),
    pickle.BINGET: lambda reader: reader._push(reader._memo[reader._number("<B", 1)]),
    pickle.LONG_BINGET: lambda reader: reader._push(reader._memo[reader._number("<I", 4)]),
    pickle.GLOBAL: lambda reader: reader._global(),
    pickle.NEWOBJ: lambda reader: reader._call(),
    pickle.REDUCE: lambda reader: reader._call(),
    pickle.BUILD: lambda reader: reader._build(),
    pickle.BINPERSID: lambda reader: reader._persistent(),
}
