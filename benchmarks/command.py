"""Command line of benchmarks that train sets of margins one after the other, and report on the existing ones."""

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxmia.cli.display import show_messages
from jaxmia.files import write_text
from jaxmia.training.devices import prepare_devices

IMAGES = Path("../shared/data/cifar9_jpeg.npz")


def train_or_report(
    about: str,
    out: Path,
    results: Path,
    sets: Sequence[tuple[Any, ...]],
    *,
    margins_path: Callable[..., Path],
    train: Callable[..., None],
    report: Callable[[Path], str],
) -> None:
    """Parses the command line, and trains the missing sets or writes the report.

    Args:
        about: Description of the benchmark.
        out: Default folder of the margins.
        results: File of the report.
        sets: Parameters of each set.
        margins_path: Returns the file of a set, called as `margins_path(out, *set)`.
        train: Writes that file, called as `train(out, images, *set)`.
        report: Formats the report on a folder as Markdown.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "report"))
    parser.add_argument("--out", type=Path, default=out, help="folder of the margins")
    parser.add_argument("--images", type=Path, default=IMAGES, help="npz of images and labels")
    parser.add_argument("--minutes", type=float, default=9.0, help="training time, after which no new set is started")
    options = parser.parse_args()
    show_messages(logging.INFO)
    if options.what == "report":
        write_text(results, report(options.out))
        return
    prepare_devices()
    started = time.monotonic()
    for one in sets:
        if margins_path(options.out, *one).exists():
            continue
        if time.monotonic() - started > 60 * options.minutes:
            return
        train(options.out, options.images, *one)
