"""PyTorch modules that compute with the arrays of one model after another."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


class Bound:
    """A module that takes the weights of one model after another, sharing memory with their arrays if possible.

    Args:
        module: Module, which is copied.
        device: Device to compute on.

    Attributes:
        module: The copy.
        parameters: Its parameters by name.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = copied(module).to(device)
        self.parameters = dict(self.module.named_parameters())
        self._device = device
        self._dtypes = {name: value.dtype for name, value in tensors_of(self.module).items()}
        owners = {id(value): name for name, value in self.module.named_buffers()}
        self._buffers = [
            (owners[id(value)], self.module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
            for name, value in self.module.named_buffers(remove_duplicate=False)
        ]
        """Name of each buffer in the state, its module, and its name there; some buffers are shared."""

    def use(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Uses these parameters and buffers."""
        tensors = {name: self.tensor(array, self._dtypes[name]) for name, array in arrays.items()}
        for name, parameter in self.parameters.items():
            parameter.data = tensors[name]
        for name, owner, key in self._buffers:
            owner._buffers[key] = tensors[name]

    @contextmanager
    def to(self, arrays: Mapping[str, np.ndarray]) -> Iterator[None]:
        """Uses these parameters and buffers within the block; the arrays contain their new values afterwards."""
        self.use(arrays)
        yield
        for name, parameter in self.parameters.items():
            write_back(arrays[name], parameter.detach())
        for name, owner, key in self._buffers:
            write_back(arrays[name], owner._buffers[key])

    @contextmanager
    def with_state(self, optimizer: torch.optim.Optimizer, memory: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
        """Uses this optimizer state, arrays by kind and parameter, within the block, and updates it."""
        tensors = {
            kind: {
                name: self.tensor(array, None if kind == "step" else self._dtypes[name])
                for name, array in arrays.items()
            }
            for kind, arrays in memory.items()
        }
        for name, parameter in self.parameters.items():
            own = {kind: values[name] for kind, values in tensors.items() if name in values}
            if own:
                optimizer.state[parameter] = own
        yield
        for kind, arrays in memory.items():
            for name, array in arrays.items():
                write_back(array, tensors[kind][name])
        # Otherwise each recipe's optimizer would keep the memory of its last model.
        optimizer.state.clear()

    def tensor(self, array: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Converts an array to a tensor on the device, sharing memory if device and type allow."""
        return torch.from_numpy(array).to(self._device, dtype)


def copied(module: nn.Module) -> nn.Module:
    """Copies a module, without the warnings of PyTorch's own code for exported programs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(module)


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a module by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor's values in its own type, or in float32 for bfloat16, which NumPy does not have."""
    value = tensor.detach().cpu()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy().copy()


def write_back(array: np.ndarray, tensor: torch.Tensor | None) -> None:
    """Copies a tensor to its array unless they share memory."""
    if tensor is not None and tensor.data_ptr() != array.ctypes.data:
        array[...] = as_array(tensor)
