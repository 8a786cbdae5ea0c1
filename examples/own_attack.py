"""Adds your own attack to the standard ones: `python examples/own_attack.py`."""

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from jaxmia import Pool, Preprocessing, Recipe, attack, train_shadows
from jaxmia.attacks import Evidence


@dataclass(frozen=True)
class OutRank:
    """Share of the OUT models whose logit margin is below the target's.

    On the command line: `--attack.name own_attack:OutRank`, or `--attack.candidates own_attack:OutRank` to let `auto`
    select it if it is the strongest.
    """

    name: str = "out-rank"

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores in [0, 1], float64 `[sample]`; higher means member."""
        below = (evidence.shadows[:, 0] < evidence.target[0]) & ~evidence.mask  # view 0 is the unchanged image
        return below.sum(0) / (~evidence.mask).sum(0)


def main() -> None:
    """Attacks a model of scikit-learn with the attack above, with `auto`, and with `auto` and the attack above."""
    pixels, classes = load_digits(return_X_y=True)
    images = (pixels[:1200].reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    members = np.random.default_rng(0).permutation(1200) < 600
    labels, ids = classes[:1200].astype(np.int32), np.arange(1200).astype(str)
    pool = Pool(images, labels, ids, members.astype(np.int8))
    model = MLPClassifier(64, max_iter=1000, random_state=0).fit(images[members].reshape(-1, 64), labels[members])

    def target(images: np.ndarray) -> np.ndarray:
        return model.predict_log_proba(images.reshape(-1, 64)).astype(np.float32)

    recipe = Recipe(architecture="mlp", width=64, count=32, epochs=40, batch_size=64)
    shadows = train_shadows(pool, recipe, Preprocessing(), 10, symmetries=("identity",))
    for name, candidates in ((OutRank(), ()), ("auto", ()), ("auto", (OutRank(),))):
        result = attack(pool, target, shadows, name, candidates=candidates)
        auc = result.figures.auc
        print(f"{result.attack}: AUC {auc.value:.3f}, 95 % interval {auc.low:.3f} to {auc.high:.3f}")


if __name__ == "__main__":
    main()
