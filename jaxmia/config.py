"""Typed configuration: every section, every default, every bound."""

import difflib
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString, TypeVar, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from jaxmia.errors import InputError
from jaxmia.files import read_yaml, write_text
from jaxmia.plugins import is_plugin

Architecture = Literal["mlp", "cnn", "resnet8", "resnet14", "resnet20", "resnet18", "resnet34", "wideresnet"]
Dihedral = Literal["identity", "hflip", "vflip", "rot180", "transpose", "rot90", "rot270", "antitranspose"]
QueryView = Literal["identity", "hflip", "vflip", "rot180", "transpose", "rot90", "rot270", "antitranspose", "auto"]
Lowering = Literal["grouped", "unrolled", "matmul", "native"]

Share = Annotated[float, Field(ge=0, le=1)]
_UNION_BRANCHES = ("literal", "constrained", "function-", "int", "str", "float")
_PLAINLY = {
    "tuple_type": "must be a list, as in [1, 2]",
    "too_short": "must not be empty",
    "model_type": "must be a mapping of fields to values",
    "path_type": "must be a path",
    "invalid_key": "must be text to be a key",
}
"""Words of our own where pydantic speaks of Python's types."""

Model = TypeVar("Model", bound=BaseModel)
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes, no, on and off as truth values, and Python takes those for 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("truth_for_a_number", "must not be true or false (nor yes, no, on, off)")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _one_value_is_a_list_of_one(cls, value: Any, info: ValidationInfo) -> Any:
        """So that `--query.views identity` and `mean: 0.5` say what they seem to say."""
        listed = get_origin(cls.model_fields[str(info.field_name)].annotation) is tuple
        return (value,) if listed and isinstance(value, str | int | float) else value


class ChallengeConfig(_Section):
    """The three files and how the target sees an image."""

    public: Path | None = None
    """File of the samples whose membership is known (pub.pt)."""
    private: Path | None = None
    """File of the samples in question (priv.pt)."""
    target: Path | None = None
    """The target: a state_dict (model.pt) or an exported program (.pt2)."""
    architecture: str = "resnet18"
    """The target's network: resnet18, resnet34, `exported` (a .pt2 file), or `package.module:factory` of your own."""
    backend: Literal["jax", "torch"] = "jax"
    """Query the converted target (jax) or PyTorch itself (torch)."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes; read from the target's weights or the labels when not given."""
    image_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Side to which images are resized (bilinear, antialiased); not given, they stay as they are."""
    mean: Annotated[tuple[float, ...], Field(min_length=1)] = (0.5,)
    """Mean of each channel, of pixels in [0, 1]; one number serves all channels."""
    std: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.5,)
    """Standard deviation of each channel; one number serves all channels."""
    dataset_classes: tuple[str, ...] = ("__main__.MembershipDataset", "__main__.TaskDataset")
    """Classes that the files may hold, as module.name; stand-ins are read, nothing is imported."""
    max_bytes: Annotated[int, Field(gt=0)] = 4 * 1024**3
    """Size of file above which reading is refused."""


class Augment(_Section):
    """Random changes to each training image."""

    crop: Annotated[int, Field(ge=0)] = 0
    """Pixels by which the image may move in each direction; black comes in."""
    flip: bool = False
    """Mirror left and right half of the time."""
    dihedral: bool = False
    """One of the eight symmetries of the square."""


class Recipe(_Section):
    """How each shadow model is trained."""

    architecture: Architecture = "resnet18"
    """The shadows' network; the target's own attacks best."""
    width: Annotated[int, Field(ge=1)] | None = None
    """Channels of the first stage (cnn, resnets), hidden units (mlp), widening factor (wideresnet)."""
    depth: Annotated[int, Field(ge=10)] = 28
    """Layers of a wideresnet: 6 n + 4."""
    count: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Number of shadow models."""
    epochs: Annotated[int, Field(ge=1)] = 60
    """Passes over a model's own IN samples."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Samples a step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd has Nesterov momentum."""
    learning_rate: Positive = 0.1
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd, first decay rate of adamw."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Added to the gradient (sgd) or decoupled from it (adamw)."""
    decay_norm_and_bias: bool = False
    """Decay the weights of normalisation layers and biases as well, as PyTorch's optimizers do by default."""
    schedule: Literal["cosine", "piecewise", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs over which the learning rate rises from 0."""
    milestones: tuple[Share, ...] = (0.5, 0.75)
    """Shares of the training after which a piecewise schedule drops."""
    drop: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of each drop of a piecewise schedule."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the label spread evenly over all classes."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, which is then queried; 0 for none."""
    augment: Augment = Augment()
    """Random changes to each training image."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of activations; auto is bfloat16 where the device has it."""

    @model_validator(mode="after")
    def _depth_of_wideresnet(self) -> "Recipe":
        if self.architecture == "wideresnet" and (self.depth - 4) % 6:
            raise ValueError(f"depth: {self.depth} is not 6 n + 4 (10, 16, 22, 28, ...)")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs} is not less than epochs ({self.epochs})")
        return self


class EnsembleConfig(_Section):
    """How many models are trained together, and how."""

    width: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Models trained together."""
    conv: Lowering | Literal["sequential", "auto"] = "auto"
    """What the convolutions of an ensemble become."""
    devices: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    """Local devices over which the models are spread."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 600.0
    """Seconds between two checkpoints of a chunk in training; 0 for none but the last, when told to stop."""
    keep_weights: bool = False
    """Keep the trained weights, so that the shadows can be asked again, in other views."""


class QueryConfig(_Section):
    """How models are asked about each sample."""

    views: tuple[QueryView, ...] = ("auto",)
    """Symmetries under which each image is shown, the first identity; auto takes those of the training augmentation."""
    shift: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Where above 0, each view also moved by so many pixels in the eight directions; auto moves automatic views by one
    where training moved images too."""
    batch_size: Annotated[int, Field(ge=1)] = 512
    """Images a step."""

    @model_validator(mode="after")
    def _identity_first(self) -> "QueryConfig":
        if self.views == ("auto",):
            return self
        if self.views[:1] != ("identity",) or len(set(self.views)) < len(self.views) or "auto" in self.views:
            raise ValueError(f"views: {list(self.views)} must begin with identity and name each view once")
        return self


class AttackConfig(_Section):
    """How scores are made of logit margins."""

    name: str = "auto"
    """The attack whose scores are submitted; auto chooses it by letting shadows play the target; `package.module:Class`
    is one of your own."""
    candidates: tuple[str, ...] = ()
    """Attacks of your own, `package.module:Class`, that auto chooses from beside the standard ones."""
    fpr: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """False positive rate at which the attack is to be strong."""
    targets: Annotated[int, Field(ge=4)] = 32
    """Shadows that play the target, at most, to choose the attack."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        from jaxmia.attacks.catalogue import AUTO, describe_unknown  # SciPy takes its time

        if name != AUTO and (problem := describe_unknown(name)):
            raise PydanticCustomError("unknown_attack", cast(LiteralString, problem))
        return name

    @field_validator("candidates")
    @classmethod
    def _import_paths(cls, candidates: tuple[str, ...]) -> tuple[str, ...]:
        for path in candidates:
            if not is_plugin(path):
                raise PydanticCustomError("no_import_path", "must name attacks as package.module:Class")
        return candidates


class MatchConfig(_Section):
    """Which recipes `jaxmia match` tries; a list that is not given spreads around the shadow section."""

    epochs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Passes; not given: a quarter, half, once and twice the shadow section's. The warm-up keeps its share of them."""
    learning_rate: tuple[Positive, ...] = ()
    """Peaks; not given: 0.1, 0.3, 1 and 3 times the shadow section's."""
    weight_decay: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Not given: none, the shadow section's (or 5e-4), and five times that."""
    label_smoothing: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = ()
    """Not given: 0, 0.05, 0.1 and the shadow section's."""
    augment: tuple[Augment, ...] = ()
    """Not given: none, crops by an eighth of the side with flips, and the shadow section's."""
    width: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Widths of the network; not given: the shadow section's alone, since each further one is a program of its own."""
    models: Annotated[int, Field(ge=2)] = 4
    """Models trained by each recipe."""
    trials: Annotated[int, Field(ge=1)] = 24
    """Combinations to try beside the configured recipe: all where they are no more, else as many drawn at random."""


class Config(_Section):
    """A whole run."""

    challenge: ChallengeConfig = ChallengeConfig()
    """The three files and how the target sees an image."""
    shadow: Recipe = Recipe()
    """How each shadow model is trained."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """How many models are trained together, and how."""
    query: QueryConfig = QueryConfig()
    """How models are asked about each sample."""
    attack: AttackConfig = AttackConfig()
    """How scores are made of logit margins."""
    match: MatchConfig = MatchConfig()
    """Which recipes `jaxmia match` tries."""
    matched: bool = False
    """Set by `jaxmia match` in what it writes: public labels chose the shadow section."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of masks, initial weights, orders and augmentation."""


def load_config(path: Path) -> Config:
    """Reads a configuration; paths in it are relative to the working directory.

    Raises:
        InputError: The file is missing, is no YAML mapping, or holds an unknown key, a wrong type or a value out of
            bounds; every one of them is named.
    """
    return parse_config(read_yaml(path), str(path))


def parse_config(content: Mapping[str, Any], source: str) -> Config:
    """Checks a mapping of sections.

    Args:
        content: Section names to their fields.
        source: Where it comes from, for messages.

    Raises:
        InputError: One line for each thing that is wrong.
    """
    return parse_as(Config, content, source)


def parse_as(kind: type[Model], content: Mapping[str, Any], source: str) -> Model:
    """Checks a mapping against any kind of model, as `parse_config` does.

    Args:
        kind: What it must be.
        content: Fields, nested as the model is.
        source: Where it comes from, for messages.

    Raises:
        InputError: One line for each thing that is wrong.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError("\n".join(_describe_errors(error, kind, source))) from error


def _describe_errors(error: ValidationError, kind: type[BaseModel], source: str) -> list[str]:
    """One line for each thing that is wrong: file, field, value, what is allowed."""
    lines: dict[str, str] = {}
    for problem in error.errors():
        location = [str(part) for part in problem["loc"] if part != "[key]"]
        if problem["type"] == "extra_forbidden":
            *sections, key = location
            name = ".".join([*sections, key if key.isidentifier() else _shown(key)])
            lines.setdefault(name, f"{source}: {name}: unknown key{_suggestion(location, kind)}")
            continue
        field = ".".join(part for part in location if not part.startswith(_UNION_BRANCHES))
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        message = message.replace("String should", "must")
        message = _PLAINLY.get(problem["type"], message)
        if problem["type"] == "missing":
            lines.setdefault(field, f"{source}: {field}: is missing")
        elif problem["type"] == "value_error":
            lines.setdefault(field, f"{source}: {field}.{message}" if field else f"{source}: {message}")
        elif field in lines:
            lines[field] += f", or {message}"
        else:
            lines[field] = f"{source}: {field}: {_shown(problem['input'])} {message}"
    return list(lines.values())


def _shown(value: Any) -> str:
    """A value in one short line, however large, deep or strange it is."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxother = 2, 80, 80
    try:
        return brief.repr(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return "a number of very many digits"


def save_config(config: Config, path: Path) -> None:
    """Writes every field, defaults too, as YAML that `load_config` reads back to an equal configuration."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _suggestion(location: list[str], section: type[BaseModel]) -> str:
    for part in location[:-1]:
        if not part.isdecimal():  # a place in a list of sections
            kind: Any = section.model_fields[part].annotation
            section = get_args(kind)[0] if get_origin(kind) is tuple else kind
    names = list(section.model_fields)
    close = difflib.get_close_matches(location[-1], names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed are {', '.join(names)}"
