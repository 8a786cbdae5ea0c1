"""An audit of a model whose members are known: `python examples/audit.py`.

Half of what is known is handed to the attack as public samples; the other half is private to it, and tells afterwards
how much the model gives away. No choice that the attack made has seen that half.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from jaxmia import Pool, Recipe, attack, train_shadows
from jaxmia.evaluation.metrics import figures


def main() -> None:
    """Audits a model of scikit-learn."""
    pixels, classes = load_digits(return_X_y=True)
    images, labels = (pixels[:1200].reshape(-1, 8, 8, 1) / 16).astype(np.float32), classes[:1200].astype(np.int32)
    members = np.random.default_rng(0).permutation(1200) < 600  # from the same distribution as the others
    model = MLPClassifier(64, max_iter=1000, random_state=0).fit(images[members].reshape(-1, 64), labels[members])

    private = np.arange(1200) >= 600  # public samples come first
    known = np.where(private, -1, members).astype(np.int8)
    pool = Pool(images, labels, np.arange(1200).astype(str), known)

    def target(images: np.ndarray) -> np.ndarray:
        return model.predict_log_proba(images.reshape(-1, 64)).astype(np.float32)

    recipe = Recipe(architecture="mlp", width=64, count=32, epochs=40, batch_size=64)
    result = attack(pool, target, train_shadows(pool, recipe, symmetries=("identity",)))
    found = figures(result.scores[private], members[private])
    print(f"attack: {result.attack}")
    print(f"AUC {found.auc.value:.3f}, 95 % interval {found.auc.low:.3f} to {found.auc.high:.3f}")
    for limit in found.tpr:
        if limit.resampled:  # so few non-members can tell
            tpr, low, high = limit.resampled.value, limit.resampled.low, limit.resampled.high
            print(f"TPR at {100 * limit.fpr:g} % FPR: {tpr:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    worst = np.flatnonzero(private & members)[np.argsort(-result.scores[private & members])[:5]]
    print(f"the members most easily told: {', '.join(pool.ids[worst])}")


if __name__ == "__main__":
    main()
