"""The command of a study."""

import argparse
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import benchmarks.study
from benchmarks.study.device import bench, profile
from benchmarks.study.making import Study
from benchmarks.study.presets import PRESETS
from jaxmia.cli.display import show_messages
from jaxmia.training.devices import prepare_devices

logger = logging.getLogger(__name__)


IMAGES = Path("../shared/data/cifar9_jpeg.npz")
RESULTS = Path(__file__).parents[1] / "results"
SEED = 2026


def steps(study: Study) -> Iterator[Callable[[], None]]:
    """Yields the steps of a study, in an order in which the first steps are a study with fewer shadows."""
    preset = study.preset
    yield partial(bench, study)
    yield partial(profile, study)
    for case in study.cases:
        yield partial(study.make_target, case)
        yield partial(study.search, case)
    for count in preset.models:
        for case in study.cases:
            yield partial(study.train, case, "matched", count)
        if count == preset.models[0]:
            for case in study.cases:
                yield partial(study.train, case, "replicas", preset.replicas)
        if count == preset.compared:
            for name in ("default", "true"):
                for case in study.cases:
                    yield partial(study.train, case, name, preset.compared)


@contextmanager
def time_limit(minutes: float) -> Iterator[None]:
    """Sends the process SIGINT after the given minutes, upon which training saves its state and ends."""
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt as stop:
        raise SystemExit(f"study: {stop or 'interrupted'}; the same command resumes") from stop
    finally:
        timer.cancel()


def main() -> None:
    """Parses the command line, and trains or reports."""
    parser = argparse.ArgumentParser(
        description=benchmarks.study.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "report"))
    parser.add_argument("preset", choices=tuple(PRESETS))
    parser.add_argument("--out", type=Path, required=True, help="folder of challenges and score files")
    parser.add_argument("--images", type=Path, default=IMAGES, help="npz of images and labels")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the targets and their recipes")
    parser.add_argument("--minutes", type=float, default=9.0, help="largest training time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--runs", type=Path, nargs="*", default=(), help="further run directories to include")
    options = parser.parse_args()
    prepare_devices()
    show_messages(logging.INFO)
    study = Study(PRESETS[options.preset], options.images, options.out, options.seed)
    if options.what == "report":
        from benchmarks.study.report import write_report

        name = f"strength_{options.preset}" + (f"_seed_{options.seed}" if options.seed != SEED else "")
        write_report(study, options.results / name, options.runs)
        return
    with time_limit(options.minutes):
        for step in steps(study):
            step()
    logger.info("study: complete")


if __name__ == "__main__":
    main()
