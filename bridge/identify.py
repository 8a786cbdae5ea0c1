"""Identifies the network that a `state_dict` belongs to, and files that hold programs instead of weights."""

import zipfile
from pathlib import Path

import torch

from bridge.convert import misfits, summary
from bridge.networks import TORCH_NETWORKS, Shapes, build, describe
from jaxmia.errors import InputError
from jaxmia.models import Network

_HOW_ELSE = (
    "for your own network set challenge.architecture package.module:factory, or write it with torch.export.save and "
    "set challenge.architecture exported"
)


def refuse_programs(path: Path) -> None:
    """Refuses a file that holds a program instead of weights, recognised by the names of its records.

    Raises:
        InputError: The file holds a program; the message says what to do.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except Exception:  # zipfile raises many types on damaged files, which the reader of the weights reports
        return
    if names & {"archive_format", "models/model.json", "serialized_exported_program.json"}:
        raise InputError(
            f"{path}: is an exported program, which may run code when it is loaded; if you trust it, set "
            "challenge.architecture exported"
        )
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        raise InputError(
            f"{path}: is a TorchScript program, which is not read; save its weights with "
            "torch.save(model.state_dict(), ...) or the program with torch.export.save"
        )


def identify(shapes: Shapes, source: str) -> Network:
    """Returns the built-in network whose `state_dict` has these names and shapes.

    Raises:
        InputError: There is none; the message names the nearest, and the first differences.
    """
    network, differences = nearest(shapes)
    if differences:
        raise InputError(
            f"{source}: is not the state_dict of a built-in network; the nearest is {network.architecture}: it "
            f"{summary(differences)}; {_HOW_ELSE}"
        )
    return network


def nearest(shapes: Shapes) -> tuple[Network, list[str]]:
    """Returns the built-in network from which a `state_dict` differs in the fewest entries, and these differences."""
    found = []
    for architecture in TORCH_NETWORKS:
        network = describe(architecture, shapes)
        try:
            with torch.device("meta"):
                expected = {name: tuple(value.shape) for name, value in build(network).state_dict().items()}
        except RuntimeError:  # a size that no tensor can have
            continue
        found.append((network, misfits(expected, shapes)))
    return min(found, key=lambda pair: len(pair[1]))
