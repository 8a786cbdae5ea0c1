"""How large a study is, and by which recipes its targets are trained."""

from dataclasses import dataclass

import numpy as np

from jaxmia.config import Architecture, Augment, Config, EnsembleConfig, MatchConfig, QueryConfig, Recipe

ATTACK_SEED = 1
"""Of shadows and of the search for a recipe; targets and replicas have seeds of their own."""


@dataclass(frozen=True)
class Preset:
    """The size of a study.

    Attributes:
        architecture: Of targets and shadows.
        width: Of that network.
        side: Of the images in the challenge, pixels.
        image_size: To which networks resize them.
        public: Samples whose membership the attack knows.
        private: Samples that the attack is measured on.
        targets: Challenges, each with images, members and a recipe of its own.
        epochs: Of the recipe that the attack begins with; the targets' are around it.
        batch_size: Samples a step.
        models: Numbers of shadows, ascending.
        compared: Number of shadows at which recipes are compared.
        replicas: Further models of the target's own recipe that play the target.
        trials: Recipes that `match` tries beside the first.
        ensemble: How shadows are trained together.
        bench_widths: Widths whose throughput is measured; none for no such measurement.
    """

    architecture: Architecture
    width: int | None
    side: int
    image_size: int | None
    public: int
    private: int
    targets: int
    epochs: int
    batch_size: int
    models: tuple[int, ...]
    compared: int
    replicas: int
    trials: int
    ensemble: EnsembleConfig
    bench_widths: tuple[int, ...] = ()

    @property
    def crop(self) -> int:
        """Pixels by which augmentation moves an image."""
        return (self.image_size or self.side) // 8

    def config(self) -> Config:
        """What the attack begins with, knowing nothing of the target: no challenge yet."""
        shadow = Recipe(
            architecture=self.architecture,
            width=self.width,
            known=0.0,
            count=max(self.models),
            epochs=self.epochs,
            batch_size=self.batch_size,
            augment=Augment(crop=self.crop, flip=True),
        )
        match = MatchConfig(
            epochs=tuple(max(1, round(self.epochs * factor)) for factor in (0.5, 1, 2)),
            learning_rate=(0.03, 0.1),
            weight_decay=(5e-4, 2.5e-3),
            label_smoothing=(0.0, 0.1),
            augment=(Augment(), Augment(crop=self.crop, flip=True)),
            models=3,
            trials=self.trials,
        )
        query = QueryConfig(views=("identity", "hflip"))
        return Config(shadow=shadow, match=match, ensemble=self.ensemble, query=query, seed=ATTACK_SEED)


PRESETS = {
    "tiny": Preset("mlp", 16, 8, None, 160, 160, 1, 2, 32, (8,), 8, 4, 1, EnsembleConfig(width=8, conv="unrolled")),
    "cpu": Preset("cnn", 16, 28, 12, 800, 1600, 3, 24, 64, (8, 16, 32, 64, 128), 32, 12, 16, EnsembleConfig(width=16)),
    "gpu": Preset(
        "resnet18",
        None,
        28,
        32,
        14_000,
        14_000,
        2,
        20,
        128,
        (8, 16, 32, 64, 128, 256),
        16,
        6,
        8,
        EnsembleConfig(),
        bench_widths=(8,),
    ),
}

KINDS = ("augmented", "overfitted", "smoothed")


def target_recipe(preset: Preset, seed: int, number: int) -> Recipe:
    """The recipe of a target: its kind by its number, what is within the kind by chance.

    None of them is among those that `match` tries; norms and biases are decayed, as PyTorch does by default and the
    attack's shadows do not.
    """
    rng = np.random.default_rng([seed, number])
    kind = KINDS[number % len(KINDS)]
    shortest, longest = {"augmented": (1.0, 1.6), "overfitted": (1.2, 2.0), "smoothed": (0.7, 1.3)}[kind]
    augment = {
        "augmented": Augment(crop=preset.crop, flip=True),
        "overfitted": Augment(),
        "smoothed": Augment(flip=True),
    }
    epochs = max(1, round(preset.epochs * rng.uniform(shortest, longest)))
    learning_rate = round(_log_uniform(rng, 0.03, 0.12), 4)
    weight_decay = 1e-4 if kind == "overfitted" else round(_log_uniform(rng, 2e-4, 3e-3), 5)
    return Recipe(
        architecture=preset.architecture,
        width=preset.width,
        known=0.0,
        count=1,
        epochs=epochs,
        batch_size=preset.batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        decay_norm_and_bias=True,
        label_smoothing=round(float(rng.uniform(0.04, 0.15)), 3) if kind == "smoothed" else 0.0,
        augment=augment[kind],
    )


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
