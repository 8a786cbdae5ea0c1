"""Measures the disk space of many shadow models, and the time and memory of `jaxmia score` and `jaxmia status`.

    python benchmarks/store.py [--models 1024 --samples 28000 --views 2]

Margins are synthetic: each sample has its own location and spread, and IN margins are higher. Each command runs in a
separate process, whose peak memory is measured. It writes benchmarks/results/store.md and .json.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmia.config import Config, save_config
from jaxmia.data.masks import membership_masks
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.files import save_npz, write_text
from jaxmia.provenance import origin
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import Chunk, ScoreStore

_CHUNK = 16
_CLASSES = 9
_COMMANDS: dict[str, tuple[str, ...]] = {
    "status": ("status", "{out}"),
    "score, one attack named": ("score", "--out", "{out}", "--attack.name", "lira-online-shrunk"),
    "score, auto": ("score", "--out", "{out}"),
}


def make_run(out: Path, models: int, samples: int, views: int) -> None:
    """Writes a finished run: `config.yaml`, `pool.npz`, `target.npz`, `shadows/*.npz`."""
    rng = np.random.default_rng(0)
    location = rng.normal(4, 2, samples).astype(np.float32)
    spread = (rng.gamma(4, 0.3, samples) + 0.2).astype(np.float32)
    shift = rng.gamma(1, 0.1, samples).astype(np.float32)

    def margins(mask: np.ndarray) -> np.ndarray:
        model = rng.standard_normal((len(mask), 1, samples), np.float32)
        view = rng.standard_normal((len(mask), views, samples), np.float32)
        return location + spread * (0.9 * model + 0.4 * view + shift * mask[:, None])

    members = rng.random((1, samples)) < 0.5
    membership = np.where(np.arange(samples) < samples // 2, members[0], UNKNOWN).astype(np.int8)
    ids = np.array([f"sample-{number}" for number in range(samples)])
    run = RunDir(out)
    save_config(Config.model_validate({"shadow": {"count": models}}), run.config)
    Pool(None, rng.integers(0, _CLASSES, samples), ids, membership).save(run.pool)
    save_npz(run.target, {"phi": margins(members)[0]})
    store = ScoreStore(run.shadows)
    for numbers in np.array_split(np.arange(models), -(-models // _CHUNK)):
        mask = membership_masks(0, numbers.tolist(), samples)
        accuracy = np.full(len(numbers), 0.9, np.float32)
        made = {"trained_images": 1, "trained_together": len(numbers), "train_seconds": 1.0, **origin()}
        store.write(Chunk(numbers, mask, margins(mask), accuracy, accuracy, {}, made))


def measure(arguments: Sequence[str]) -> dict[str, Any]:
    """Measures wall and processor time in seconds and peak resident memory in bytes of one jaxmia command.

    Raises:
        RuntimeError: The command failed.
    """
    command = [str(Path(sys.executable).parent / "jaxmia"), *arguments]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    stderr = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)}: {stderr}")
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": 1024 * usage.ru_maxrss,
    }


def size(folder: Path) -> int:
    """Bytes that all files in a folder take on disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def describe(result: dict[str, Any]) -> str:
    """Formats the result as a Markdown page."""
    asked, made = result["asked"], result["origin"]
    lines = [
        "# A large run: disk, time and memory",
        "",
        f"`python benchmarks/store.py`: {asked['models']:,} models x {asked['samples']:,} samples x {asked['views']} "
        "views, synthetic.",
        "",
        f"{made['device']}; Python {made['python']}, NumPy {made['numpy']}, jaxmia {made['jaxmia']} at "
        f"{made['commit']}.",
        "",
        f"Disk: {result['disk_bytes'] / 2**20:,.0f} MiB in {result['files']} files.",
        "",
        "| command | time | processor time | peak memory |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {row['seconds']:.1f} s | {row['processor_seconds']:.1f} s | {row['peak_bytes'] / 2**30:.2f} GiB |"
        for name, row in result["commands"].items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=28000)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = vars(parser.parse_args())
    results = asked.pop("results")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        # In a separate process, since a command's peak is never reported as less than that of the process starting it.
        maker = multiprocessing.get_context("spawn").Process(target=make_run, args=(out, *asked.values()))
        maker.start()
        maker.join()
        disk, files = size(RunDir(out).shadows), len(list(RunDir(out).shadows.iterdir()))
        commands = {}
        for name, words in _COMMANDS.items():
            commands[name] = measure([word.format(out=out) for word in words])
            print(name, commands[name], flush=True)
    result = {"asked": asked, "origin": origin(), "disk_bytes": disk, "files": files, "commands": commands}
    write_text(results / "store.json", json.dumps(result, indent=2) + "\n")
    write_text(results / "store.md", describe(result))


if __name__ == "__main__":
    main()
