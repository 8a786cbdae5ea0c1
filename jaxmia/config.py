"""Typed configuration: sections, fields, defaults and bounds."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, LiteralString, cast, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from jaxmia.errors import InputError
from jaxmia.files import read_yaml, write_text
from jaxmia.plugins import is_plugin
from jaxmia.validation import one_line_each, parse_as

Architecture = Literal["mlp", "cnn", "resnet8", "resnet14", "resnet20", "resnet18", "resnet34", "wideresnet"]
Dihedral = Literal["identity", "hflip", "vflip", "rot180", "transpose", "rot90", "rot270", "antitranspose"]
QueryView = Literal["identity", "hflip", "vflip", "rot180", "transpose", "rot90", "rot270", "antitranspose", "auto"]
Activation = Literal["relu", "tanh", "gelu", "silu", "sigmoid"]
Norm = Literal["none", "batch", "layer"]
Lowering = Literal["grouped", "unrolled", "matmul", "native"]

Share = Annotated[float, Field(ge=0, le=1)]

_MAX_EPOCHS = 100_000
_MAX_WIDTH = 16_384

MAX_SEED = 2**32 - 1
MAX_BYTES = 4 * 2**30
"""Default for the largest file that is read, in bytes."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _import_path(value: str) -> str:
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", value):
        raise PydanticCustomError("import_path", "must be package.module:name")
    return value


Plugin = Annotated[str, AfterValidator(_import_path)]
"""Import path of the user's own code (`jaxmia.plugins`)."""


def _unwrapped(annotation: Any) -> Any:
    """Type behind `Annotated`."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


class _SectionType(type(BaseModel)):
    """Refuses a section that is made in Python as one in a file: by `InvalidFields`, with a line for each problem."""

    if not TYPE_CHECKING:  # hidden from type checkers, which would no longer check the fields

        def __call__(cls, *args: Any, **fields: Any) -> Any:
            with one_line_each(cls, cls.__name__):
                return super().__call__(*args, **fields)


class _Section(BaseModel, metaclass=_SectionType):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans_elsewhere(cls, value: Any, info: ValidationInfo) -> Any:
        """Rejects booleans for other types: YAML reads yes, no, on, off as booleans, and Python takes those as 1, 0."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("truth_for_a_number", "must not be true or false (nor yes, no, on, off)")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _one_value_is_a_list_of_one(cls, value: Any, info: ValidationInfo) -> Any:
        """Wraps a scalar given for a list, so that `--query.views identity` and `mean: 0.5` mean what they say."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        listed = any(get_origin(kind) is tuple for kind in (annotation, *map(_unwrapped, get_args(annotation))))
        single = isinstance(value, str | int | float) and not isinstance(value, bool)
        return (value,) if listed and single else value


class ChallengeConfig(_Section):
    """The challenge's three files and the target's preprocessing."""

    public: Path | None = None
    """File of the public samples, whose membership is known: pub.pt, or a .npz or .csv file."""
    private: Path | None = None
    """File of the private samples, whose membership is to be inferred: priv.pt, or a .npz or .csv file."""
    target: Path | None = None
    """The target model: a state_dict (model.pt) or an exported program (.pt2)."""
    architecture: Literal["auto", "exported"] | Architecture | Plugin = "auto"
    """The target's network; auto identifies it from its weights. `exported` is a program of torch.export.save, which is
    code that must be trusted; `package.module:factory` returns your own torch.nn.Module, which loads the weights."""
    backend: Literal["jax", "torch"] = "jax"
    """Query the target converted to JAX (jax) or in PyTorch itself (torch)."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes; by default read from the target's weights, or from a query where they do not
    show it."""
    image_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Side in pixels to which images are resized (bilinear, antialiased); by default images keep their size."""
    mean: Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    """Mean of each channel for pixels in [0, 1], or of each feature; a single number applies to all. By default 0.5
    for images and 0 for features."""
    std: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """Standard deviation of each channel or feature; a single number applies to all. By default 0.5 for images and 1
    for features."""
    scaling: Literal["given", "pool"] = "given"
    """Scale features by the given mean and std, or by those of each feature over both files (pool)."""
    one_hot: tuple[str, ...] = ()
    """Categorical columns of a .csv file; each becomes one feature per category."""
    dataset_classes: tuple[str, ...] = ("__main__.MembershipDataset", "__main__.TaskDataset")
    """Dataset classes that the files may contain, as module.name; they are replaced by stand-ins, never imported."""
    max_bytes: Annotated[int, Field(gt=0)] = MAX_BYTES
    """Largest file that is read, in bytes."""

    @model_validator(mode="after")
    def _scaled_once(self) -> "ChallengeConfig":
        if self.scaling == "pool" and (self.mean is not None or self.std is not None):
            raise ValueError("scaling: pool takes the place of mean and std; leave them out")
        return self


class Augment(_Section):
    """Random augmentation of each training image."""

    crop: Annotated[int, Field(ge=0, le=1024)] = 0
    """Largest random shift in each direction, in pixels; the border is filled with black."""
    flip: bool = False
    """Flip images horizontally with probability 1/2."""
    dihedral: bool = False
    """Apply a random one of the eight symmetries of the square."""


_MLP_FIELDS = ("hidden", "activation", "norm", "dropout")


class Recipe(_Section):
    """How each shadow model is trained.

    >>> Recipe(architecture="cnn", count=8).batch_size
    128
    """

    architecture: Architecture | Literal["target"] | Plugin = "resnet18"
    """Network of the shadow models; `target` is the target's own, with which the attack is strongest.
    `package.module:factory` names a network of your own, in Flax or PyTorch."""
    backend: Literal["auto", "jax", "torch"] = "auto"
    """Framework that trains the shadow models: JAX, many at once, or PyTorch (torch), one after another; auto uses
    PyTorch only for networks that cannot be converted to JAX."""
    width: Annotated[int, Field(ge=1, le=_MAX_WIDTH)] | None = None
    """Channels of the first stage (cnn, resnets), hidden units (mlp) or widening factor (wideresnet)."""
    depth: Annotated[int, Field(ge=10, le=1000)] = 28
    """Number of layers of a wideresnet: 6 n + 4."""
    hidden: tuple[Annotated[int, Field(ge=1, le=_MAX_WIDTH)], ...] = ()
    """Units of each hidden layer of an mlp; by default two layers of `width` units."""
    activation: Activation = "relu"
    """Activation function of an mlp."""
    norm: Norm = "none"
    """Normalisation before each activation of an mlp: none, batch or layer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which each hidden unit of an mlp is dropped in training."""
    known: Share = 0.9
    """Fraction of the known memberships that is fixed: these members are in every shadow's training set, these
    non-members in none, and neither are scored; 0 draws all masks at random."""
    count: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Number of shadow models."""
    rounds: Annotated[int, Field(ge=1, le=2)] = 1
    """With 2, half of the models are trained first, and their scores guide the training sets of the other half."""
    epochs: Annotated[int, Field(ge=1, le=_MAX_EPOCHS)] = 60
    """Number of passes over each model's IN samples."""
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 128
    """Number of samples in a training step of one model."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer; sgd uses Nesterov momentum."""
    learning_rate: Positive = 0.1
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd, or first-moment decay rate (beta1) of adamw."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Weight decay, added to the gradient (sgd) or decoupled from it (adamw)."""
    decay_norm_and_bias: bool = False
    """Also apply weight decay to normalisation layers and biases, as PyTorch's optimizers do by default."""
    schedule: Literal["cosine", "piecewise", "constant"] = "cosine"
    """Learning rate schedule after the warm-up."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Number of epochs over which the learning rate rises linearly from 0."""
    milestones: tuple[Share, ...] = (0.5, 0.75)
    """Fractions of the training at which a piecewise schedule drops."""
    drop: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor by which a piecewise schedule multiplies the learning rate at each milestone."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability mass of the label that is spread evenly over all classes."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, which is queried in their place; 0 disables it."""
    augment: Augment = Augment()
    """Random augmentation of each training image."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of activations; auto selects bfloat16 where the device is faster with it, and float32 for tables."""

    @model_validator(mode="after")
    def _layers_of_mlp(self) -> "Recipe":
        if self.hidden and self.width is not None:
            raise ValueError("hidden: sets the units of each layer; leave out width")
        given = [name for name in _MLP_FIELDS if getattr(self, name) != type(self).model_fields[name].default]
        if given and self.architecture != "mlp":
            raise ValueError(f"{given[0]}: applies to an mlp, but architecture is {self.architecture}")
        return self

    @model_validator(mode="after")
    def _depth_of_wideresnet(self) -> "Recipe":
        if self.architecture == "wideresnet" and (self.depth - 4) % 6:
            raise ValueError(f"depth: {self.depth} is not 6 n + 4 (10, 16, 22, 28, ...)")
        if self.rounds > self.count:
            raise ValueError(f"rounds: {self.rounds} rounds need at least as many models (count is {self.count})")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs} is not less than epochs ({self.epochs})")
        return self


class EnsembleConfig(_Section):
    """How shadow models are trained as an ensemble.

    >>> EnsembleConfig(width=8).conv
    'auto'
    """

    width: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Number of models trained at once; auto measures which is fastest."""
    conv: Lowering | Literal["sequential", "auto"] = "auto"
    """How the convolutions of models trained at once are computed; auto measures which is fastest."""
    devices: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    """Number of local devices over which the models are sharded; on a CPU, one device can use several cores."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 600.0
    """Seconds between checkpoints during training; 0 saves a checkpoint only when the run is stopped."""
    keep_weights: bool = False
    """Keep the trained weights, so that the shadow models can be queried again in other views."""


class QueryConfig(_Section):
    """How models are queried on each sample."""

    views: tuple[QueryView, ...] = ("auto",)
    """Symmetries in which each image is queried, beginning with identity; auto selects those of the augmentation."""
    shift: Annotated[int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    """If above 0, also query each view shifted by this many pixels in each of the eight directions; with automatic
    views, auto shifts by one pixel if the augmentation crops."""
    batch_size: Annotated[int, Field(ge=1)] = 512
    """Number of images in a query step of one model."""

    @model_validator(mode="after")
    def _identity_first(self) -> "QueryConfig":
        if self.views == ("auto",):
            return self
        if self.views[:1] != ("identity",) or len(set(self.views)) < len(self.views) or "auto" in self.views:
            raise ValueError(f"views: {list(self.views)} must begin with identity and name each view once")
        return self


class AttackConfig(_Section):
    """How membership scores are computed from logit margins."""

    name: str = "auto"
    """Attack whose scores are submitted; auto selects it by attacking shadow models as pseudo-targets.
    `package.module:Class` names your own."""
    candidates: tuple[str, ...] = ()
    """Your own attacks, as `package.module:Class`, that auto considers besides the standard ones."""
    fpr: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """False positive rate at which the attack maximises the true positive rate."""
    targets: Annotated[int, Field(ge=4)] = 32
    """Largest number of shadow models that serve as pseudo-targets when the attack is selected."""
    epsilon_delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Delta at which the target's epsilon is bounded from below; usually less than one over the number of samples."""
    epsilon_confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence of the lower bound on epsilon."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "auto":
            return name
        from jaxmia.attacks.catalogue import describe_unknown  # importing SciPy is slow

        if problem := describe_unknown(name):
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
    """Search space of `jaxmia match`; fields that are not given default to values around the shadow section's."""

    epochs: tuple[Annotated[int, Field(ge=1, le=_MAX_EPOCHS)], ...] = ()
    """Numbers of epochs; by default 1/4, 1/2, 1 and 2 times the shadow section's. The warm-up scales with them."""
    learning_rate: tuple[Positive, ...] = ()
    """Peak learning rates; by default 0.1, 0.3, 1 and 3 times the shadow section's."""
    weight_decay: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Weight decays; by default 0, the shadow section's (or 5e-4), and five times that."""
    label_smoothing: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = ()
    """Label smoothings; by default 0, 0.05, 0.1 and the shadow section's."""
    augment: tuple[Augment, ...] = ()
    """Augmentations, as in [{}, {flip: true}]; by default none, flips, crops, both, and the shadow section's."""
    width: tuple[Annotated[int, Field(ge=1, le=_MAX_WIDTH)], ...] = ()
    """Widths of the network; by default only the shadow section's, since each width compiles a separate program."""
    models: Annotated[int, Field(ge=2)] = 4
    """Number of models trained by each recipe."""
    trials: Annotated[int, Field(ge=1)] = 24
    """Number of combinations tried besides the configured recipe, drawn at random if there are more."""


class Config(_Section):
    """Configuration of a run."""

    challenge: ChallengeConfig = ChallengeConfig()
    """The challenge's three files and the target's preprocessing."""
    shadow: Recipe = Recipe()
    """How each shadow model is trained."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """How shadow models are trained as an ensemble."""
    query: QueryConfig = QueryConfig()
    """How models are queried on each sample."""
    attack: AttackConfig = AttackConfig()
    """How membership scores are computed from logit margins."""
    match: MatchConfig = MatchConfig()
    """Search space of `jaxmia match`."""
    matched: bool = False
    """Set by `jaxmia match` in the configuration that it writes: public labels selected the shadow section."""
    seed: Annotated[int, Field(ge=0, lt=MAX_SEED + 1)] = 0
    """Random seed of membership masks, initial weights, batch order and augmentation."""


def template(name: str) -> Path:
    """Path of a configuration or cluster profile that is part of jaxmia.

    Raises:
        InputError: There is no template of this name; the message lists the templates.
    """
    known = {path.stem: path for path in (Path(__file__).parent / "configs").rglob("*.yaml")}
    if name not in known:
        raise InputError(f"{name!r} is not a template; templates are {', '.join(sorted(known))}")
    return known[name]


def load_config(path: Path) -> Config:
    """Loads a configuration from a YAML file; paths in it are relative to the working directory.

    Raises:
        InputError: The file is missing, is not a YAML mapping, or contains an unknown key, a wrong type or a value out
            of bounds; the message lists every such problem.
    """
    return parse_config(read_yaml(path), str(path))


def parse_config(content: Mapping[str, Any], source: str) -> Config:
    """Validates a mapping of sections as a configuration.

    Args:
        content: Mapping from section names to their fields.
        source: Origin of the content, such as a file name, for error messages.

    Raises:
        InvalidFields: The content is invalid.
    """
    return parse_as(Config, content, source)


def save_config(config: Config, path: Path) -> None:
    """Writes every field, defaults included, as YAML that `load_config` reads back to an equal configuration."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
