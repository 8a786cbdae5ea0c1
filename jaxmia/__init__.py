# pyright: strict
"""Membership inference with ensembles of shadow models trained together."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxmia.api import AttackResult, TrainedShadows, attack, train_shadows
    from jaxmia.config import Ensemble, Shadow
    from jaxmia.errors import InputError
    from jaxmia.pool import Pool

__version__ = "0.1.0"

__all__ = [
    "AttackResult",
    "Ensemble",
    "InputError",
    "Pool",
    "Shadow",
    "TrainedShadows",
    "attack",
    "train_shadows",
]

_HOME = {"Ensemble": "config", "InputError": "errors", "Pool": "pool", "Shadow": "config"}


def __getattr__(name: str) -> object:
    """Loads what is public when it is first used, so that `import jaxmia` starts no JAX."""
    if name not in __all__:
        raise AttributeError(f"module 'jaxmia' has no attribute {name!r}")
    return getattr(import_module(f"jaxmia.{_HOME.get(name, 'api')}"), name)
