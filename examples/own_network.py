"""Trains shadows of your own Flax network: `python examples/own_network.py`."""

import jax
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from jaxmia import Pool, Preprocessing, Recipe, attack, train_shadows


class TanhNet(nnx.Module):
    """One hidden layer of tanh units, like the target's network, which is not among the built-in ones.

    It is built with those of `rngs`, `shape`, `classes`, `width`, `dtype` and `conv_general_dilated` that it names.
    Flax's batch normalisation and dropout need nothing else, and `nnx.Conv` stays fast when many models are trained
    together if it is given `conv_general_dilated`.
    """

    def __init__(self, rngs: nnx.Rngs, shape: tuple[int, int, int], classes: int, width: int = 64) -> None:
        height, breadth, channels = shape
        self.hidden = nnx.Linear(height * breadth * channels, width, rngs=rngs)
        self.out = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits `[sample, class]` of normalised images `[sample, height, width, channel]`."""
        return self.out(nnx.tanh(self.hidden(images.reshape(len(images), -1))))


def main() -> None:
    """Attacks a model of scikit-learn with shadows of its own network, and of a built-in one."""
    pixels, classes = load_digits(return_X_y=True)
    images = (pixels[:1200].reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    members = np.random.default_rng(0).permutation(1200) < 600
    labels, ids = classes[:1200].astype(np.int32), np.arange(1200).astype(str)
    pool = Pool(images, labels, ids, members.astype(np.int8))
    model = MLPClassifier(64, "tanh", max_iter=1000, random_state=0)
    model.fit(images[members].reshape(-1, 64), labels[members])

    def target(images: np.ndarray) -> np.ndarray:
        return model.predict_log_proba(images.reshape(-1, 64)).astype(np.float32)

    # From the command line: --shadow.architecture own_network:TanhNet
    for architecture in ("own_network:TanhNet", "mlp"):
        recipe = Recipe(architecture=architecture, width=64, count=32, epochs=40, batch_size=64)
        shadows = train_shadows(pool, recipe, Preprocessing(), 10, symmetries=("identity",))
        result = attack(pool, target, shadows)
        auc = result.figures.auc
        print(f"{architecture}: AUC {auc.value:.3f}, 95 % interval {auc.low:.3f} to {auc.high:.3f}")


if __name__ == "__main__":
    main()
