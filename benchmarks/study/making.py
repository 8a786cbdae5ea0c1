"""Makes the challenges, targets and shadows of a study, as far as they are missing."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from benchmarks.make_challenge import make_pool
from benchmarks.study.presets import Preset, target_recipe
from bridge.challenge import save_challenge, save_truth
from bridge.target import save_target
from bridge.trainer import train_target
from jaxmia.cli.display import progress_bar
from jaxmia.config import ChallengeConfig, Config, Recipe, load_config
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.files import write_text
from jaxmia.leaderboard.submission import read_truth
from jaxmia.matching import match
from jaxmia.models import Network
from jaxmia.pipeline.stages import Pipeline
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import ScoreStore

logger = logging.getLogger(__name__)


MEAN, STD = (0.47,), (0.25,)
REPLICAS_SEED = 1_000_003
"""Number of the first replica, so that masks of replicas are independent of those of the shadows that attack them."""


@dataclass(frozen=True)
class Case:
    """A challenge of a study and its files.

    `matched` are the shadows of the attack, and `default` those without a search for the recipe. Two kinds of models
    depend on `truth` and belong to no attack: `replicas`, which serve as targets, and shadows of the recipe `true`, the
    best one that a search could find.
    """

    folder: Path
    number: int

    @property
    def truth(self) -> Path:
        """Folder of the files that no attack reads: `truth.csv`, `recipe.json`."""
        return self.folder / "truth"

    @property
    def search(self) -> Path:
        """Folder of the search for the recipe."""
        return self.folder / "match"

    def shadows(self, name: str) -> Path:
        """Run directory of `matched`, `true`, `default` or `replicas`."""
        return self.folder / name

    def challenge(self, preset: Preset) -> ChallengeConfig:
        """Configuration of the challenge, as the attack gets it."""
        return ChallengeConfig(
            public=self.folder / "pub.pt",
            private=self.folder / "priv.pt",
            target=self.folder / "model.pt",
            architecture=preset.architecture,
            image_size=preset.image_size,
            mean=MEAN,
            std=STD,
        )

    def recipe(self) -> Recipe:
        """Recipe of the target."""
        return Recipe.model_validate_json((self.truth / "recipe.json").read_text())


@dataclass(frozen=True)
class Study:
    """A study and its folder.

    Attributes:
        preset: Size of the study.
        images: Real images, in the format of `benchmarks/make_challenge.py`.
        out: Folder of all files.
        seed: Seed of the targets: their images, members, recipes and weights. No attack reads it.
    """

    preset: Preset
    images: Path
    out: Path
    seed: int

    @property
    def cases(self) -> list[Case]:
        """All challenges."""
        return [Case(self.out / f"target-{number}", number) for number in range(self.preset.targets)]

    def make_target(self, case: Case) -> None:
        """Draws a challenge, trains its target in PyTorch and stores the truth separately."""
        path = case.folder / "model.pt"
        if path.exists():
            return
        preset = self.preset
        pool, membership = make_pool(
            self.images, preset.public, preset.private, preset.side, seed=self.seed + case.number
        )
        shadow = target_recipe(preset, self.seed, case.number)
        members = membership == 1
        assert pool.images is not None
        logger.info(f"{case.folder.name}: training the target on {members.sum()} members")
        side, channels = preset.image_size or preset.side, pool.images.shape[-1]
        module, history = train_target(
            pool.images[members],
            pool.labels[members],
            Network(shadow.architecture, (side, side, channels), int(pool.labels.max()) + 1, shadow.width),
            shadow,
            Preprocessing(preset.image_size, MEAN, STD),
            seed=self.seed + case.number,
            device="cuda" if jax.default_backend() == "gpu" else "cpu",
        )
        save_challenge(pool, case.folder / "pub.pt", case.folder / "priv.pt")
        save_truth(case.truth / "truth.csv", pool.ids, membership)
        write_text(case.truth / "recipe.json", shadow.model_dump_json(indent=2) + "\n")
        write_text(case.truth / "history.json", json.dumps([vars(epoch) for epoch in history]) + "\n")
        save_target(module, path)

    def search(self, case: Case) -> None:
        """Searches for the target's recipe with the attack's knowledge."""
        if not RunDir(case.search).match.exists():
            config = self.preset.config().model_copy(update={"challenge": case.challenge(self.preset)})
            match(Pipeline(config, case.search, progress_bar))

    def train(self, case: Case, name: str, count: int) -> None:
        """Trains shadows until there are `count` of them."""
        out = case.shadows(name)
        if len(ScoreStore(RunDir(out).shadows).models()) >= count:
            return
        config = self.config_of(case, name)
        shadow = config.shadow.model_copy(update={"count": count})
        pipeline = Pipeline(config.model_copy(update={"shadow": shadow}), out, progress_bar)
        logger.info(f"{case.folder.name}: {name}, {count} models")
        with pipeline.prepared():
            pipeline.query()
            pipeline.train()

    def config_of(self, case: Case, name: str) -> Config:
        """The configuration of `matched`, `true`, `default` or `replicas`."""
        if name == "matched":
            return load_config(RunDir(case.search).matched)
        config = self.preset.config().model_copy(update={"challenge": case.challenge(self.preset)})
        if name == "default":
            return config
        seed = REPLICAS_SEED + self.seed if name == "replicas" else config.seed
        return config.model_copy(update={"shadow": case.recipe(), "seed": seed})


def truth_of(case: Case, ids: np.ndarray) -> np.ndarray:
    """Membership of the samples, bool in the order of their ids."""
    listed, membership = read_truth(case.truth / "truth.csv")
    known = dict(zip(listed.tolist(), membership.tolist(), strict=True))
    return np.array([known[name] for name in ids.tolist()])
