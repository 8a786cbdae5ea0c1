"""Writes `pub.pt`, `priv.pt` and `truth.csv` of a challenge from given images; trains nothing.

    python benchmarks/make_challenge.py --images images.npz --public 14000 --private 14000 --out runs/challenge

`images.npz` contains `labels [sample]` and either `images`, uint8 `[sample, height, width, channel]`, or JPEG or PNG
files one after the other in `bytes`, the n-th at `offsets[n]:offsets[n + 1]`. Larger images are cropped to their
centre. Half of the samples of each file, drawn at random, are members, on which alone a target is to be trained.
14,000 + 14,000 images take about eight seconds on two CPU cores.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from bridge.challenge import save_challenge, save_truth
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.files import load_npz


def read_images(path: Path, chosen: np.ndarray, size: int) -> np.ndarray:
    """Reads the chosen images, cropped to the central square; uint8 `[sample, height, width, channel]`."""
    arrays = load_npz(path, required=("labels",))
    if "images" in arrays:
        return np.stack([centre(image, size) for image in arrays["images"][chosen]])
    content, offsets = arrays["bytes"].tobytes(), arrays["offsets"]
    files = (io.BytesIO(content[offsets[index] : offsets[index + 1]]) for index in chosen)
    return np.stack([centre(np.asarray(Image.open(file).convert("RGB")), size) for file in files])


def centre(image: np.ndarray, size: int) -> np.ndarray:
    """Crops an image `[height, width, channel]` to its central square."""
    top, left = ((length - size) // 2 for length in image.shape[:2])
    return image[top : top + size, left : left + size]


def make_pool(images: Path, public: int, private: int, size: int, seed: int) -> tuple[Pool, np.ndarray]:
    """Draws a pool of samples at random; returns it and the membership of all of them, int8 `[sample]`."""
    random = np.random.default_rng(seed)
    labels = load_npz(images, required=("labels",))["labels"]
    count = public + private
    if not 0 < count <= len(labels):
        raise SystemExit(f"--public and --private are {count} samples together, {images} holds {len(labels)}")
    chosen = random.permutation(len(labels))[:count]
    membership = np.concatenate([random.permutation(np.arange(part) % 2) for part in (public, private)]).astype(np.int8)
    ids = random.permutation(10 * count)[:count].astype(np.str_)
    known = np.where(np.arange(count) < public, membership, UNKNOWN).astype(np.int8)
    return Pool(read_images(images, chosen, size), labels[chosen].astype(np.int32), ids, known), membership


def main() -> None:
    """Parses the command line and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--public", type=int, default=14_000)
    parser.add_argument("--private", type=int, default=14_000)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pool, membership = make_pool(options.images, options.public, options.private, options.size, options.seed)
    save_challenge(pool, options.out / "pub.pt", options.out / "priv.pt")
    save_truth(options.out / "truth.csv", pool.ids, membership)
    print(f"{options.out}: {options.public} public and {options.private} private samples, {membership.sum()} members")


if __name__ == "__main__":
    main()
