"""The target: loads it from a file and queries it in JAX or in PyTorch."""

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import torch
from flax import nnx
from torch import nn
from torch.export import ExportedProgram

from bridge.convert import check_fit, to_nnx, torch_shapes
from bridge.graph.initial import by_factory
from bridge.identify import identify, nearest, refuse_programs
from bridge.networks import TORCH_NETWORKS, build, describe
from bridge.preprocessing import preprocess
from bridge.safeload import as_array, checked_size, load
from bridge.stored import describe_value
from bridge.trainable import Backend as ShadowBackend
from bridge.trainable import trainable_module, trainable_program
from jaxmia.config import MAX_BYTES
from jaxmia.data.kinds import TOKENS, kind_of
from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError, one_line, printable
from jaxmia.files import atomic_write
from jaxmia.models import Network, TrainableNetwork
from jaxmia.plugins import import_plugin, is_plugin

Backend = Literal["jax", "torch"]

# Keys of a state_dict inside a checkpoint.
_NESTED = ("state_dict", "model_state_dict", "model", "net")


@dataclass(frozen=True)
class Target:
    """A trained network behind its preprocessing, in eval mode.

    Attributes:
        logits: Logits `[sample, class]` of one batch of pool images.
        source: Origin of the target, for messages.
        classes: Number of classes; None if only a query can determine it.
        network: Description of the network; None for an exported program or a network of the user's own.
        convert: For these two, a function that makes the network trainable with fresh weights; called with the shape of
            a sample, whether samples are token ids, and the backend.
        model: The converted network, called as `model(images, train=False)` on preprocessed images; None in PyTorch.
        preprocessing: Preprocessing of samples for the network.
    """

    logits: Callable[[np.ndarray], np.ndarray]
    source: str
    classes: int | None
    preprocessing: Preprocessing
    network: Network | None = None
    model: nnx.Module | None = None
    convert: Callable[[tuple[int, ...], bool, ShadowBackend], TrainableNetwork] | None = None

    def query(self, images: np.ndarray) -> np.ndarray:
        """Float32 logits `[sample, class]` of one batch of pool images.

        Args:
            images: Images, resized or not, or rows, as in `jaxmia.data.pool.Pool`.

        Raises:
            InputError: The network cannot take such samples, or its result is not `[sample, class]`.
        """
        images = np.asarray(images)
        kind = kind_of(images)
        try:
            self.preprocessing.check(images)
            logits = self.logits(images)
        except MemoryError:
            raise
        except Exception as error:  # the user's program or network can raise anything
            raise InputError(
                f"{self.source}: cannot take {kind.name} of {images.shape[1:]} {kind.axes}: {one_line(error)}"
            ) from error
        if logits.ndim != 2 or len(logits) != len(images):
            raise InputError(
                f"{self.source}: returns {logits.shape} for {len(images)} {kind.name}, expected logits [sample, class]"
            )
        return logits

    def shadow_network(self, samples: np.ndarray, backend: ShadowBackend = "auto") -> TrainableNetwork:
        """Makes the target's network trainable with fresh weights, for shadow models.

        Args:
            samples: Samples of the pool, resized or not.
            backend: Backend that trains it, as in `shadow.backend`; `auto` warns if it selects PyTorch.

        Raises:
            InputError: The network does not take such samples, or `backend` is `jax` and it cannot be converted.
        """
        seen = self.preprocessing.resized(samples[:1])
        if self.convert:
            return self.convert(seen.shape[1:], kind_of(seen) is TOKENS, backend)
        if not self.network:
            raise InputError(f"{self.source}: its network is not known; name one as shadow.architecture")
        network = replace(self.network, shape=seen.shape[1:])
        return built_in_torch(network) if backend == "torch" else network

    def count_classes(self, pool: Pool) -> int:
        """Number of logits of the network, determined with the first image.

        Raises:
            InputError: `query` raises it, or the pool has no images.
        """
        return self.query(pool.images_to("query")[:1]).shape[1]


def load_target(
    path: Path,
    architecture: str = "auto",
    *,
    backend: Backend = "jax",
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> Target:
    """Loads a target.

    A `state_dict` (`model.pt`) never runs code. The other two do, so each must be named: an exported program is
    rebuilt by PyTorch, which evaluates expressions and may unpickle objects in the file; a factory is the user's own
    code.

    Args:
        path: Path of a `state_dict`, of a checkpoint that contains one, or of an exported program.
        architecture: `auto` identifies the network of `jaxmia.models` by the names and shapes of the weights; the name
            of such a network, whose width, stem and classes are read from the weights; `exported`, a program of
            `torch.export.save`; or `package.module:factory`, a function without arguments that returns the
            `torch.nn.Module` that loads the weights.
        backend: `jax` queries the converted network, `torch` PyTorch itself; exported programs and factories are
            always queried in PyTorch.
        image_size: See `Preprocessing.size`.
        mean: See `Preprocessing`.
        std: See `Preprocessing`.
        classes: Expected number of classes; None reads it from the weights.
        max_bytes: Largest size of the file.

    Raises:
        InputError: The file cannot be read safely, the architecture is unknown, the number of classes differs, or the
            weights do not match: the message lists the first differences and names the nearest network.
    """
    path, preprocessing = Path(path), Preprocessing(image_size, mean, std)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checked_size(path, max_bytes)
    if architecture == "exported":
        program = _exported(path)
        target = _in_torch(_run_on_batches(program), preprocessing, str(path), classes)
        return replace(target, convert=functools.partial(_trainable_program, program, str(path)))
    refuse_programs(path)
    if is_plugin(architecture):
        module = _from_factory(architecture)
        load_weights(module, read_weights(path, max_bytes), str(path))
        target = _in_torch(_placed(module, device), preprocessing, str(path), classes, device=device)
        return replace(target, convert=functools.partial(_trainable_module, architecture))
    if architecture not in ("auto", *TORCH_NETWORKS):
        allowed = ", ".join(TORCH_NETWORKS)
        raise InputError(
            f"challenge.architecture: {architecture!r} is none of auto, {allowed}, exported, package.module:factory"
        )
    weights = _unwrapped(read_weights(path, max_bytes))
    network = _network_of(weights, architecture, str(path))
    source = f"{path} as {network.architecture}"
    if classes not in (None, network.classes):
        raise InputError(f"{source}: has {network.classes} classes, but challenge.classes is {classes}")
    if backend == "jax":
        return _in_jax(network, to_nnx(network, weights, source=source), preprocessing, source)
    module = build(network)
    load_weights(module, weights, source)
    return _in_torch(_placed(module, device), preprocessing, source, network.classes, network, device)


def _unwrapped(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Removes what all names begin with: the attribute in which a module holds the network.

    `DataParallel` has `module`, `torch.compile` `_orig_mod`, and a module of the user's own may have any.
    """
    heads, tails = zip(*((head, tail) for head, _, tail in (name.partition(".") for name in weights)), strict=True)
    if len(set(heads)) == 1 and all("." in tail for tail in tails):
        return _unwrapped(dict(zip(tails, weights.values(), strict=True)))
    return weights


def _network_of(weights: Mapping[str, torch.Tensor], architecture: str, source: str) -> Network:
    """Describes the network of these weights.

    Raises:
        InputError: No built-in network has such weights, or the named one does not.
    """
    shapes = shapes_of(weights)
    if architecture == "auto":
        return identify(shapes, source)
    network = describe(architecture, shapes)
    try:
        check_fit(torch_shapes(network), shapes, f"{source} as {architecture}")
    except InputError as error:
        other, differences = nearest(shapes)
        raise InputError(str(error) if differences else f"{error}; it fits {other.architecture}") from error
    return network


def read_weights(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, torch.Tensor]:
    """Reads a `state_dict`, also from inside a checkpoint, without running code.

    Raises:
        InputError: The file cannot be read safely, contains anything but plain tensors by name, or a weight is not
            finite.
    """
    content = load(path, max_bytes=max_bytes)
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path}: contains a {type(content).__name__}, expected a state_dict: tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(value, torch.Tensor):
            hint = f"; a state_dict inside is found under {', '.join(_NESTED)}" if isinstance(value, Mapping) else ""
            raise InputError(
                f"{path}: {printable(str(name))} is a {describe_value(value)}, expected a tensor by name{hint}"
            )
        if value.dtype != torch.bfloat16 and as_array(value) is None:
            raise InputError(f"{path}: {name} is a tensor of {value.dtype}, expected plain numbers, bfloat16 at least")
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{path}: {name} contains values that are not finite")
    # NumPy does not know bfloat16; float32 holds the same numbers.
    return {name: value.float() if value.dtype == torch.bfloat16 else value for name, value in content.items()}


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Loads weights into a module, strictly; only batch counters may be missing.

    Raises:
        InputError: Names or shapes differ; the message lists all differences.
    """
    check_fit(shapes_of(module.state_dict()), shapes_of(weights), source)
    module.load_state_dict(weights, strict=False)


def save_target(module: nn.Module, path: Path) -> None:
    """Writes the `state_dict` of a module, atomically."""
    with atomic_write(path) as file:
        torch.save(module.state_dict(), file)


def shapes_of(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape of each entry of a `state_dict`."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def _in_jax(network: Network, model: nnx.Module, preprocessing: Preprocessing, source: str) -> Target:
    graph, state = nnx.split(model)

    @jax.jit
    def logits(state: nnx.State, images: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(preprocessing(images), train=False)

    def query(images: np.ndarray) -> np.ndarray:
        # Accelerators round the factors of float32 products by default; the target's margins must not depend on this.
        with jax.default_matmul_precision("highest"):
            return np.asarray(logits(state, images), np.float32)

    return Target(query, source, network.classes, preprocessing, network, model)


def _in_torch(
    module: Callable[[torch.Tensor], object],
    preprocessing: Preprocessing,
    source: str,
    classes: int | None,
    network: Network | None = None,
    device: str = "cpu",
) -> Target:
    def query(images: np.ndarray) -> np.ndarray:
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            logits = module(preprocess(preprocessing, images, torch.device(device)))
        if not isinstance(logits, torch.Tensor):
            raise TypeError(f"it returns a {type(logits).__name__}, expected a tensor")
        return logits.float().cpu().numpy()

    return Target(query, source, classes, preprocessing, network)


def built_in_torch(network: Network) -> TrainableNetwork:
    """Makes a built-in network trainable in PyTorch."""
    make = functools.partial(build, network)
    return trainable_module(make(), network.shape, draw=by_factory(make), source=network.architecture, backend="torch")


def _trainable_module(
    architecture: str, shape: tuple[int, ...], tokens: bool, backend: ShadowBackend
) -> TrainableNetwork:
    make = functools.partial(_from_factory, architecture)
    source = f"challenge.architecture: {architecture!r}"
    return trainable_module(make(), shape, draw=by_factory(make), source=source, integers=tokens, backend=backend)


def _trainable_program(
    program: ExportedProgram, source: str, shape: tuple[int, ...], tokens: bool, backend: ShadowBackend
) -> TrainableNetwork:
    return trainable_program(program, shape, source=source, integers=tokens, backend=backend)


def _placed(module: nn.Module, device: str) -> nn.Module:
    return module.to(device).eval()


def _from_factory(name: str) -> nn.Module:
    factory = import_plugin(name, "challenge.architecture")
    try:
        module = factory() if callable(factory) else factory
    except Exception as error:  # the user's own code, which can raise anything
        raise InputError(
            f"challenge.architecture: {name!r} fails when called without arguments: {one_line(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(
            f"challenge.architecture: {name!r} gives a {type(module).__name__}, expected a torch.nn.Module"
        )
    return module


def _exported(path: Path) -> ExportedProgram:
    """Loads an exported program on the CPU."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path}: is not a program of torch.export.save ({type(error).__name__})") from error
    inputs = list(program.graph_signature.user_inputs)
    if len(inputs) != 1:
        raise InputError(f"{path}: takes {len(inputs)} inputs, expected one: images")
    return program


def _run_on_batches(program: ExportedProgram) -> Callable[[torch.Tensor], object]:
    """Runs a program, in batches of its fixed size if it was exported with one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module()
    inputs = list(program.graph_signature.user_inputs)
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.name in inputs}
    fixed = shapes[str(inputs[0])][0]
    return _in_batches_of(fixed, module) if isinstance(fixed, int) else module


def _in_batches_of(size: int, module: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(images: torch.Tensor) -> torch.Tensor:
        starts = range(0, len(images), size)
        index = [torch.arange(start, start + size).clamp(max=len(images) - 1) for start in starts]
        return torch.cat([module(images[batch]) for batch in index])[: len(images)]

    return run
