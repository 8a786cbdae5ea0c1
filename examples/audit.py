"""Audits a model whose members are known: `python examples/audit.py`.

Each sample is attacked with the memberships of all others known, which only someone who trained the model can do. So it
shows more of what the model reveals than an attack from outside.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from jaxmia import Pool, Preprocessing, Recipe, audit


def main() -> None:
    """Audits a model of scikit-learn with 32 shadow models for each half of the samples."""
    pixels, classes = load_digits(return_X_y=True)
    images, labels = (pixels[:1200].reshape(-1, 8, 8, 1) / 16).astype(np.float32), classes[:1200].astype(np.int32)
    members = np.random.default_rng(0).permutation(1200) < 600  # from the same distribution as the non-members
    model = MLPClassifier(64, max_iter=1000, random_state=0).fit(images[members].reshape(-1, 64), labels[members])

    def target(images: np.ndarray) -> np.ndarray:
        return model.predict_log_proba(images.reshape(-1, 64)).astype(np.float32)

    pool = Pool(images, labels, np.arange(1200).astype(str), members.astype(np.int8))
    recipe = Recipe(architecture="mlp", width=64, count=32, epochs=40, batch_size=64)
    result = audit(pool, target, recipe, Preprocessing(), folds=2)
    auc = result.figures.auc
    print(f"{result.attack}: AUC {auc.value:.3f}, 95 % interval {auc.low:.3f} to {auc.high:.3f}")
    for limit in result.figures.tpr:
        if limit.resampled:  # None if there are too few non-members for this FPR
            tpr, low, high = limit.resampled.value, limit.resampled.low, limit.resampled.high
            print(f"TPR at {100 * limit.fpr:g} % FPR: {tpr:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    samples = result.samples  # the columns of a table, with a row for each sample
    widest = np.argsort(-samples["gap"])[:5]  # widest gaps between models trained on the sample and the others
    print(f"most vulnerable: {', '.join(samples['id'][widest])}")


if __name__ == "__main__":
    main()
