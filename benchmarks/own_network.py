"""Compares shadows of the target's own network with shadows of the nearest built-in network.

    python -m benchmarks.own_network photographs.npz --out runs/own

For each network, several models of it serve as targets, each trained on a random half of the images. They are attacked
with equally many shadows of their own network and of another one, on the same images, with the same recipe.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks.make_challenge import read_images
from bridge.shadows import from_factory
from jaxmia import TrainedShadows, train_shadows
from jaxmia.attacks import Evidence
from jaxmia.attacks.catalogue import named_attack
from jaxmia.attacks.incomplete import score_all
from jaxmia.config import Augment, EnsembleConfig, Recipe
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.evaluation.metrics import tpr_at_fpr
from jaxmia.files import load_npz, write_text
from jaxmia.models import TrainableNetwork
from jaxmia.provenance import origin

ATTACKS = ("lira-online-global", "lira-online-tied-shrunk", "rmia-online")


@dataclass(frozen=True)
class Contest:
    """A target's network, the built-in network that replaces it, and how each is trained."""

    name: str
    factory: str
    other: str
    recipe: Recipe


_RECIPE = Recipe(
    optimizer="adamw", learning_rate=2e-3, weight_decay=0.05, epochs=30, batch_size=64, augment=Augment(flip=True)
)
CONTESTS = (
    Contest("ConvNeXt", "tests.bridge.graph.zoo:convnext", "resnet8", _RECIPE),
    Contest("ViT", "tests.bridge.graph.zoo:vit", "cnn", _RECIPE),
)


@dataclass(frozen=True)
class Gain:
    """Results of shadows of the target's own network and of another one: means over targets, in percent.

    Attributes:
        network: The target's network.
        other: The other network.
        attack: The attack.
        own: TPR at 5 % FPR with shadows of the own network.
        others: The same with shadows of the other one.
        difference: Difference of the two.
        half_width: Half width of the 95 % interval of the difference, by Student's distribution over the targets.
        own_auc: AUC with shadows of the own network.
        others_auc: The same with shadows of the other one.
    """

    network: str
    other: str
    attack: str
    own: float
    others: float
    difference: float
    half_width: float
    own_auc: float
    others_auc: float


def main(
    images: Annotated[Path, tyro.conf.Positional],
    out: Path,
    samples: int = 1200,
    side: int = 16,
    shadows: int = 16,
    targets: int = 8,
    seed: int = 0,
) -> None:
    """Measures the gain for each network.

    Args:
        images: npz of photographs, as `benchmarks.make_challenge` reads it.
        out: Directory of the result.
        samples: Number of images.
        side: Side to which they are resized, in pixels.
        shadows: Number of shadows of each kind.
        targets: Number of targets.
        seed: Seed of the choice of images and of all models.
    """
    labels = load_npz(images)["labels"]
    chosen = np.random.default_rng(seed).permutation(len(labels))[:samples]
    pool = Pool(
        read_images(images, chosen, 2 * side),
        labels[chosen].astype(np.int32),
        np.arange(samples).astype(str),
        np.full(samples, UNKNOWN, np.int8),
    )
    gains = [gain for contest in CONTESTS for gain in measure(contest, pool, side, shadows, targets, seed)]
    result = {"gains": [asdict(gain) for gain in gains], "samples": samples, "side": side, "shadows": shadows}
    result |= {"targets": targets, "seed": seed, "recipe": _RECIPE.model_dump(mode="json"), "origin": origin()}
    write_text(out / "own_network.json", json.dumps(result, indent=2) + "\n")
    write_text(out / "own_network.md", page(gains, samples, side, shadows, targets))


def measure(contest: Contest, pool: Pool, side: int, shadows: int, targets: int, seed: int) -> list[Gain]:
    """Trains the targets and both kinds of shadows of one contest, and attacks the targets with each."""
    classes, preprocessing = int(pool.labels.max()) + 1, Preprocessing(side)
    network = from_factory(contest.factory, (side, side, 3), classes)

    def trained(recipe: Recipe, first: int, network: TrainableNetwork | None = None) -> TrainedShadows:
        return train_shadows(
            pool,
            recipe,
            preprocessing,
            classes,
            symmetries=("identity", "hflip"),
            shift=0,
            ensemble=EnsembleConfig(width=4, conv="unrolled", devices=1),
            seed=first,
            network=network,
        )

    target_models = trained(contest.recipe.model_copy(update={"count": targets}), seed, network)
    of = {
        "own": trained(contest.recipe.model_copy(update={"count": shadows}), seed + 1, network),
        "others": trained(
            contest.recipe.model_copy(update={"count": shadows, "architecture": contest.other}), seed + 1
        ),
    }
    gains = []
    for name in ATTACKS:
        found = {
            kind: [attacked(name, target_models, number, kept, pool) for number in range(targets)]
            for kind, kept in of.items()
        }
        own, others = (100 * np.array(found[kind]) for kind in ("own", "others"))
        difference = own[:, 0] - others[:, 0]
        half = stats.t.ppf(0.975, targets - 1) * difference.std(ddof=1) / np.sqrt(targets)
        gains.append(
            Gain(
                contest.name,
                contest.other,
                name,
                float(own[:, 0].mean()),
                float(others[:, 0].mean()),
                float(difference.mean()),
                float(half),
                float(own[:, 1].mean()),
                float(others[:, 1].mean()),
            )
        )
    return gains


def attacked(
    name: str, targets: TrainedShadows, number: int, shadows: TrainedShadows, pool: Pool
) -> tuple[float, float]:
    """TPR at 5 % FPR and AUC against one target."""
    evidence = Evidence(targets.phi[number], shadows.phi, shadows.mask, pool.labels)
    scores, members = score_all(named_attack(name), evidence), targets.mask[number]
    return tpr_at_fpr(scores, members, 0.05), float(roc_auc_score(members, scores))


def page(gains: list[Gain], samples: int, side: int, shadows: int, targets: int) -> str:
    """Formats the results as a Markdown table."""
    lines = [
        "# Shadows of the target's own network",
        "",
        f"TPR at 5 % FPR and AUC in percent, means over {targets} targets; each target and each of the {shadows} "
        f"shadows is trained on a random half of {samples} photographs of {side} x {side} pixels with the same recipe. "
        "The 95 % interval of the difference is over targets. Made by `python -m benchmarks.own_network`.",
        "",
        "| target | attack | own network | other | difference | AUC own | AUC other |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {gain.network} | {gain.attack} | {gain.own:.1f} | {gain.others:.1f} ({gain.other}) | "
        f"{gain.difference:+.1f} ± {gain.half_width:.1f} | {gain.own_auc:.1f} | {gain.others_auc:.1f} |"
        for gain in gains
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)
