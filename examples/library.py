"""Attacks the demo's target from Python: `python examples/library.py`."""

from pathlib import Path

from bridge.challenge import load_challenge
from bridge.demo import make_demo
from bridge.target import load_target
from jaxmia import Recipe, attack, train_shadows

FOLDER = Path("runs/library")


def main(folder: Path = FOLDER, count: int = 64) -> None:
    """Makes the demo's challenge, trains `count` shadows, attacks, writes a submission."""
    make_demo(folder)  # writes pub.pt, priv.pt and model.pt; put your own there instead
    pool = load_challenge(folder / "pub.pt", folder / "priv.pt")
    target = load_target(folder / "model.pt", "cnn", mean=(0.3053,), std=(0.3761,))
    recipe = Recipe(architecture="cnn", count=count, epochs=25, batch_size=64)
    shadows = train_shadows(pool, recipe, target.preprocessing, target.classes, symmetries=("identity",))
    result = attack(pool, target.query, shadows)
    result.submit(folder / "submission.csv")
    auc = result.figures.auc
    print(f"{result.attack}: AUC {auc.value:.3f}, 95 % interval {auc.low:.3f} to {auc.high:.3f}, public samples")


if __name__ == "__main__":
    main()
