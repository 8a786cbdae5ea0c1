"""Sizes of studies, and the recipes of their targets."""

from dataclasses import dataclass

import numpy as np

from jaxmia.config import Architecture, Augment, Config, EnsembleConfig, MatchConfig, QueryConfig, Recipe

ATTACK_SEED = 1
"""Seed of the shadows and of the search for a recipe; targets and replicas have their own seeds."""


@dataclass(frozen=True)
class Preset:
    """The size of a study.

    Attributes:
        architecture: Network of targets and shadows.
        width: Width of that network.
        side: Side of the images in the challenge, in pixels.
        image_size: Side to which networks resize them, in pixels.
        public: Number of samples whose membership the attack knows.
        private: Number of samples that the attack is measured on.
        targets: Number of challenges, each with its own images, members and recipe.
        epochs: Number of epochs of the attack's first recipe; those of the targets are around it.
        batch_size: Number of samples in a step.
        models: Numbers of shadows, ascending.
        compared: Number of shadows at which recipes are compared.
        replicas: Number of further models of the target's recipe that serve as targets.
        trials: Number of recipes that `match` tries besides the first.
        ensemble: Configuration of the ensemble of shadows.
        bench_widths: Widths at which throughput is measured; empty to measure none.
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
        """Pixels by which augmentation shifts an image."""
        return (self.image_size or self.side) // 8

    def config(self) -> Config:
        """The attack's first configuration, which does not depend on the target and names no challenge yet."""
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
    """Draws the recipe of a target, of a kind that its number determines.

    None of these recipes is among those that `match` tries. Weight decay also applies to normalisation layers and
    biases, as by default in PyTorch but not in the attack's shadows.
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
