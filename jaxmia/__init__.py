# pyright: strict
"""Membership inference with ensembles of shadow models trained together."""

from importlib import import_module
from typing import TYPE_CHECKING

from jaxmia._version import __version__ as __version__

if TYPE_CHECKING:
    from jaxmia.api import AttackResult, attack, audit, train_shadows
    from jaxmia.config import EnsembleConfig, Recipe
    from jaxmia.data.pool import Pool
    from jaxmia.data.preprocessing import Preprocessing
    from jaxmia.errors import InputError
    from jaxmia.training.shadows import TrainedShadows

__all__ = [
    "AttackResult",
    "EnsembleConfig",
    "InputError",
    "Pool",
    "Preprocessing",
    "Recipe",
    "TrainedShadows",
    "attack",
    "audit",
    "train_shadows",
]

_HOME = {
    "EnsembleConfig": "config",
    "InputError": "errors",
    "Pool": "data.pool",
    "Preprocessing": "data.preprocessing",
    "Recipe": "config",
    "TrainedShadows": "training.shadows",
}


def __getattr__(name: str) -> object:
    """Loads what is public when it is first used, so that `import jaxmia` starts no JAX."""
    if name not in __all__:
        raise AttributeError(f"module 'jaxmia' has no attribute {name!r}")
    return getattr(import_module(f"jaxmia.{_HOME.get(name, 'api')}"), name)
