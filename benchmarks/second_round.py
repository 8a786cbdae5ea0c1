"""Measures whether a second round of shadows, guided by the scores of the first, is worth its cost.

    python -m benchmarks.second_round train --minutes 9
    python -m benchmarks.second_round report

`train` computes the missing margins, and resumes if it is run again. `report` needs only the margins and writes
`benchmarks/results/second_round_cpu.md`. Both arms train 64 shadows, in all of which the public memberships are fixed.
One arm draws the private memberships of all 64 with probability 1/2. The other does so for 32 shadows, and draws those
of the other 32 with the probabilities that the first 32 give (`jaxmia.evaluation.chances`), as `shadow.rounds: 2` does.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.command import train_or_report
from benchmarks.make_challenge import make_pool
from jaxmia.attacks import Adaptive, Attack, Base, Bavaria, Evidence, LiraOnline, score_all
from jaxmia.config import Augment, EnsembleConfig, Recipe
from jaxmia.data.masks import Masks
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.views import View
from jaxmia.evaluation.chances import membership_chances
from jaxmia.evaluation.metrics import auc, tpr_at_fpr
from jaxmia.files import load_npz, save_npz
from jaxmia.provenance import commit, processor
from jaxmia.training.setup import ShadowSetup, shadow_setup

logger = logging.getLogger("benchmarks.second_round")

OUT = Path("runs/second_round")
RESULTS = Path(__file__).parent / "results/second_round_cpu.md"

SIDE = 8
PUBLIC, PRIVATE = 400, 800
MEAN, STD = (0.47,), (0.25,)
SEEDS = (6101, 6102)
"""Seeds of the photographs; masks and weights of the models follow from them."""

ROUND = 32
"""Number of shadows in a round."""

TARGETS = 4
FPR = 0.05

ATTACKS: tuple[Attack, ...] = (
    Base(None, 2.0),
    Bavaria("student"),
    LiraOnline("tied-shrunk"),
    LiraOnline("global"),
    Adaptive(),
)

_COMMON = Recipe(architecture="mlp", width=64, batch_size=64, learning_rate=0.03, precision="float32")
RECIPES = {
    "overfitted": _COMMON.model_copy(update={"epochs": 60, "weight_decay": 1e-4}),
    "augmented": _COMMON.model_copy(update={"epochs": 40, "augment": Augment(crop=1, flip=True)}),
    "smoothed": _COMMON.model_copy(update={"epochs": 30, "label_smoothing": 0.1, "augment": Augment(flip=True)}),
}


def margins_path(out: Path, recipe: str, seed: int) -> Path:
    return out / f"{recipe}-{seed}.npz"


def train(out: Path, images: Path, recipe: str, seed: int) -> None:
    """Trains the targets and both arms' shadows, and saves their margins on private samples."""
    pool, _ = make_pool(images, PUBLIC, PRIVATE, 28, seed)
    informed = RECIPES[recipe].model_copy(update={"known": 1.0})
    preprocessing = Preprocessing(SIDE, MEAN, STD)
    setup = shadow_setup(pool, informed, preprocessing, int(pool.labels.max()) + 1, views=(View(),), seed=seed)
    private = ~pool.public
    started = time.perf_counter()
    phi, mask = _trained(setup, range(2 * ROUND + TARGETS))
    found = {"phi": phi, "mask": mask, "labels": pool.labels, "private": private}
    phi, mask = phi[:, private], mask[:, private]
    for number in range(TARGETS):
        first = Evidence(phi[2 * ROUND + number][None], phi[:ROUND, None], mask[:ROUND], pool.labels[private])
        chance = np.where(setup.masks.free, 0.5, setup.masks.fixed).astype(float)
        chance[private] = membership_chances(first)
        masks = Masks(seed + 1000 * (number + 1), setup.masks.fixed, chance)
        own_phi, own_mask = _trained(replace(setup, masks=masks), range(ROUND))
        found |= {f"phi_{number}": own_phi[:, private], f"mask_{number}": own_mask[:, private]}
        found |= {f"chance_{number}": chance[private]}
        logger.info(f"{recipe}, seed {seed}: target {number} after {time.perf_counter() - started:.0f} s")
    save_npz(margins_path(out, recipe, seed), {**found, "seconds": np.array(time.perf_counter() - started)})


def _trained(setup: ShadowSetup, models: range) -> tuple[np.ndarray, np.ndarray]:
    """Trains models; returns their margins in the only view and their masks, both `[model, sample]`."""
    plan = setup.plan(EnsembleConfig(width=34, conv="unrolled"), len(models))
    chunks = list(setup.shadow_trainer(plan).train(models))
    return np.concatenate([chunk.phi[:, 0] for chunk in chunks]), np.concatenate([chunk.mask for chunk in chunks])


def compare(path: Path) -> dict[str, np.ndarray]:
    """Measures each attack, `[target, (one round, two rounds), (TPR, AUC)]`."""
    arrays = load_npz(path)
    private = arrays["private"]
    phi, mask, labels = arrays["phi"][:, private], arrays["mask"][:, private], arrays["labels"][private]
    found: dict[str, list] = {attack.name: [] for attack in ATTACKS}
    for number in range(TARGETS):
        target, members = phi[2 * ROUND + number][None], mask[2 * ROUND + number]
        one = Evidence(target, phi[: 2 * ROUND, None], mask[: 2 * ROUND], labels)
        both = (
            np.concatenate([phi[:ROUND], arrays[f"phi_{number}"]]),
            np.concatenate([mask[:ROUND], arrays[f"mask_{number}"]]),
        )
        two = Evidence(target, both[0][:, None], both[1], labels)
        for attack in ATTACKS:
            scores = [score_all(attack, evidence) for evidence in (one, two)]
            found[attack.name].append([(tpr_at_fpr(s, members, FPR), auc(s, members)) for s in scores])
    return {name: np.array(values) for name, values in found.items()}


def report(out: Path) -> str:
    """Formats the comparison as Markdown tables."""
    sets = {
        recipe: [path for seed in SEEDS if (path := margins_path(out, recipe, seed)).exists()] for recipe in RECIPES
    }
    found = {recipe: [compare(path) for path in paths] for recipe, paths in sets.items() if paths}
    seconds = sum(float(load_npz(path)["seconds"]) for paths in sets.values() for path in paths)
    lines = [
        "# A second round of shadows",
        "",
        f"{PUBLIC + PRIVATE:,} photographs at {SIDE}x{SIDE} ({PUBLIC} of them public, with fixed membership), `mlp` of "
        f"width 64, {TARGETS} targets of the shadows' own recipe for each draw of photographs, {2 * ROUND} shadows in "
        f"either arm. Scored on {PRIVATE} private samples. Gain of two rounds over one, in percentage points, with the "
        "standard error of the paired difference over targets; targets of one draw share the shadows of the first "
        "round.",
        "",
        f"Sets (recipe and seed): {', '.join(path.stem for paths in sets.values() for path in paths)}. Trained in "
        f"{seconds:,.0f} s on {processor()}, shared with other work; commit {commit()}. Made by "
        "`python -m benchmarks.second_round`.",
    ]
    for column, title in ((0, f"TPR at {100 * FPR:g} % FPR"), (1, "AUC")):
        lines += ["", f"## {title}", "", "| attack | " + " | ".join(found) + " |"]
        lines += ["| --- |" + " ---: |" * len(found)]
        for attack in ATTACKS:
            cells = []
            for parts in found.values():
                values = 100 * np.concatenate([part[attack.name] for part in parts])[:, :, column]
                gain = values[:, 1] - values[:, 0]
                cells.append(
                    f"{values[:, 0].mean():.1f} to {values[:, 1].mean():.1f}: {gain.mean():+.2f} ± "
                    f"{gain.std(ddof=1) / np.sqrt(len(gain)):.2f}"
                )
            lines.append(f"| `{attack.name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parses the command line, and trains or reports."""
    sets = [(recipe, seed) for seed in SEEDS for recipe in RECIPES]
    train_or_report(__doc__ or "", OUT, RESULTS, sets, margins_path=margins_path, train=train, report=report)


if __name__ == "__main__":
    main()
