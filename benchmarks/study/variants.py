"""How strong each way of attacking is, at equal numbers of models: fixed memberships, views, and published attacks."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.study.published import PUBLISHED
from benchmarks.study.sets import KNOWN, OWN, Regime
from benchmarks.study.strength import figure_of
from jaxmia.attacks import Aligned, Attack, Evidence, scores_of
from jaxmia.attacks.catalogue import AUTO, distinct_attacks
from jaxmia.data.masks import Masks
from jaxmia.data.pool import Pool
from jaxmia.data.views import query_views
from jaxmia.evaluation.selection import Selection, select
from jaxmia.evaluation.unlike import evidence_on_fixed, likeness_to_shadows
from jaxmia.pipeline.summary import private_estimate

FPR = 0.05
FIGURES = ("tpr@0.05", "tpr@0.01", "auc")

Arrays = dict[str, np.ndarray]
"""Margins as `sets.read` gives them."""


@dataclass(frozen=True)
class Variant:
    """A way to attack.

    Attributes:
        name: Name in the tables.
        known: Share of the public half whose membership is fixed in all shadows.
        views: `two` (the identity and its mirror image), those that `auto` takes from the recipe, or `one`.
    """

    name: str
    known: float
    views: str

    def columns(self, regime: Regime) -> list[int]:
        """Which of the views that were queried are used."""
        automatic = query_views(("auto",), "auto", regime.recipe.augment, (2, 2))
        count = {"one": 1, "two": 2, "auto": len(automatic)}[self.views]
        return list(range(count))


RANDOM = Variant("random masks, two views", 0, "two")
FIXED = Variant("fixed memberships, two views", KNOWN, "two")
VIEWS = Variant("random masks, views by auto", 0, "auto")
BOTH = Variant("fixed memberships, views by auto", KNOWN, "auto")
ONE = Variant("random masks, one view", 0, "one")
VARIANTS = (RANDOM, FIXED, VIEWS, BOTH)
PUBLISHED_WITH = (ONE, RANDOM, VIEWS)
"""Variants that published attacks are measured in: random masks, with any views."""


@dataclass(frozen=True)
class Situation:
    """The free samples as an attacker with some shadows sees them, and the targets whose truth the study knows.

    Samples that chance left without an IN or without an OUT model are left out: with eight shadows one in 128.

    Attributes:
        evidence: Evidence of the first target.
        pool: Free samples, without images.
        targets: Margins of each target, `[target, view, sample]`.
        members: Whether each sample is a member of each target, bool `[target, sample]`.
        fixed: Margins of the first target and the shadows in the first view, on the samples whose membership is fixed;
            None if there is none.
        fixed_targets: Margins of each target on these samples, `[target, view, sample]`.
    """

    evidence: Evidence
    pool: Pool
    targets: np.ndarray
    members: np.ndarray
    fixed: Evidence | None
    fixed_targets: np.ndarray

    def against(self, target: int) -> tuple[Evidence, Evidence | None]:
        """Evidence of a target on the free samples, and on those whose membership is fixed."""
        fixed = self.fixed and self.fixed.with_target(self.fixed_targets[target])
        return self.evidence.with_target(self.targets[target]), fixed


def situation(shadows: Arrays, targets: Arrays, seed: int, known: float, models: int, views: list[int]) -> Situation:
    """The first `models` of the shadows against targets.

    Args:
        shadows: Margins of the shadows.
        targets: Margins of models that were trained on the public members and a random half of the rest.
        seed: Seed of the shadows' masks.
        known: Share of the public half whose membership is fixed in the shadows.
        models: Number of shadows.
        views: Columns of the views to use.
    """
    membership = shadows["membership"]
    masks, mask = Masks.knowing(seed, membership, known), shadows["mask"][:models]
    assert np.array_equal(mask, masks(range(models)))
    chosen, labels = np.flatnonzero(masks.free & mask.any(0) & ~mask.all(0)), shadows["labels"]
    of_shadows = shadows["phi"][:models]
    return Situation(
        Evidence(
            targets["phi"][0][views][:, chosen], of_shadows[:, views][:, :, chosen], mask[:, chosen], labels[chosen]
        ),
        Pool(None, labels[chosen], chosen.astype(str), membership[chosen]),
        targets["phi"][:, views][:, :, chosen],
        targets["mask"][:, chosen],
        evidence_on_fixed(targets["phi"][0], of_shadows, mask, labels, masks.free),
        targets["phi"][:, :1, ~masks.free],
    )


def measure(one: Situation) -> dict[str, Any]:
    """`auto` on the private samples of every target, as plain JSON.

    Returns:
        `chosen` by it, `promised` for the private samples with its interval, `candidates` that it compared and their
        mean TPR, `seconds` of the choice, and its figures under `auto`, `[target]` each.
    """
    started = time.perf_counter()
    selection = select(one.evidence, distinct_attacks(one.evidence), FPR)
    seconds = time.perf_counter() - started
    promised = private_estimate(one.pool, selection)
    assert promised is not None
    return {
        "chosen": selection.candidate.name,
        "promised": [promised.value, promised.low, promised.high],
        "seconds": seconds,
        "candidates": {result.name: result.tpr for result in selection.results if result.tpr is not None},
        AUTO: figures_of(one, functools.partial(_auto, selection), len(one.targets)),
    }


def measure_published(one: Situation) -> dict[str, dict[str, list[float]]]:
    """Figures of the published attacks on the targets of the shadows' own recipe, by name."""
    return {attack.name: figures_of(one, lambda *_, attack=attack: attack, OWN) for attack in PUBLISHED}


def figures_of(
    one: Situation, attack_on: Callable[[Evidence, Evidence | None], Attack], count: int
) -> dict[str, list[float]]:
    """Figures of an attack on the private samples of the first `count` targets, `[target]` each.

    Args:
        one: Situation.
        attack_on: The attack by what `Situation.against` returns.
        count: Number of targets.
    """
    private = ~one.pool.public
    found: dict[str, list[float]] = {figure: [] for figure in FIGURES}
    for target, members in enumerate(one.members[:count]):
        evidence, fixed = one.against(target)
        scores = scores_of(attack_on(evidence, fixed), evidence)[private]
        for figure, values in found.items():
            values.append(round(figure_of(scores, members[private], figure), 5))
    return found


def _auto(selection: Selection, evidence: Evidence, fixed: Evidence | None) -> Attack:
    """What `auto` uses against this target; only whether it is aligned depends on the target."""
    plain = selection.candidate
    unlike = likeness_to_shadows(evidence, fixed).unlike
    return Aligned(plain) if unlike and not isinstance(plain, Aligned) else plain
