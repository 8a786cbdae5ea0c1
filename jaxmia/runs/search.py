"""Progress of a search for the target's recipe, read from its directory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from jaxmia.errors import UnreadableFile
from jaxmia.files import json_text, read_json, write_text
from jaxmia.runs.rundir import RunDir


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


_Count = Annotated[int, Field(ge=0, le=2**31)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]+$")]
_Name = Annotated[str, Field(pattern="^[a-z_]+$")]


class _Wanted(_Part):
    models: _Count
    recipes: tuple[_Digest, ...]


class _Trial(_Part):
    recipe: dict[_Name, _Count | float | dict[_Name, bool | _Count] | None]
    energy_score: float
    std_error: float


def _only_best(trials: Any) -> Any:
    """The first trial; the others are not needed, and those that diverged have no figures."""
    return trials[:1] if isinstance(trials, list) else trials


class _Ranking(_Part):
    trials: Annotated[tuple[_Trial], BeforeValidator(_only_best)]


_AnyPart = TypeVar("_AnyPart", bound=_Part)


@dataclass(frozen=True)
class SearchStatus:
    """Progress of a search.

    Attributes:
        models: Number of models that the search wants, over all recipes.
        models_done: Number of those that are trained.
        recipes: Number of recipes that it compares.
        recipes_done: Number of those whose models are all trained.
        best: `recipe`, `energy_score` and `std_error` of the best recipe in `match.json`; None before a search is over.
    """

    models: int
    models_done: int
    recipes: int
    recipes_done: int
    best: dict[str, Any] | None


def trial_file(recipe: str, model: int) -> str:
    """Name of the file with the outcome of one model of a recipe, which is given by its digest."""
    return f"{recipe}-{model:05d}.npz"


def write_wanted(out: Path, recipes: Sequence[str], models: int) -> None:
    """Records the digests of the recipes that a search wants, and the number of models of each."""
    write_text(RunDir(out).search, json_text({"models": models, "recipes": recipes}) + "\n")


def read_search(out: Path) -> SearchStatus | None:
    """Reads the progress of a search; None if none has begun here or its record is damaged."""
    wanted = _read(RunDir(out).search, _Wanted)
    if wanted is None:
        return None
    recipes = set(wanted.recipes)
    trained = Counter(
        recipe
        for recipe, _, model in (path.stem.rpartition("-") for path in RunDir(out).trials.glob("*.npz"))
        if recipe in recipes and model.isdecimal() and int(model) < wanted.models
    )
    return SearchStatus(
        models=len(recipes) * wanted.models,
        models_done=trained.total(),
        recipes=len(recipes),
        recipes_done=sum(count == wanted.models for count in trained.values()),
        best=_best(RunDir(out).match),
    )


def _best(path: Path) -> dict[str, Any] | None:
    ranking = _read(path, _Ranking)
    return ranking.trials[0].model_dump() if ranking else None


def _read(path: Path, kind: type[_AnyPart]) -> _AnyPart | None:
    try:
        return kind.model_validate(read_json(path, "jaxmia match"))
    except (UnreadableFile, ValidationError):
        return None
