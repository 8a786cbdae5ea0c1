# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""Readers of untrusted files under atheris, which looks for inputs that reach new code; no test needs it.

    pip install atheris
    python -m tests.bridge.guided_fuzz challenge|target|config|scores|truth -max_total_time=150

What follows the kind is for libFuzzer. It ends at the first input that is neither read nor refused in good order, or
that runs something, and keeps it as crash-*.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import torch._weights_only_unpickler  # the reader behind the two kinds of .pt file

with atheris.instrument_imports(include=["jaxmia", "bridge", "yaml"]):
    from bridge.challenge import load_split
    from bridge.target import load_target
    from jaxmia.config import load_config
    from jaxmia.leaderboard.submission import read_scores_csv, read_truth

from tests.fuzz.conftest import read_or_refuse
from tests.fuzz.test_csv import SCORES, TRUTH
from tests.fuzz.test_pt import attempts, challenge_bytes, data_pkl, repacked, target_bytes

CONFIG = b"shadow: {count: 3, augment: {crop: 2}}\nquery:\n  views: [identity, hflip]\nattack: {name: auto, fpr: 0.1}\n"


def main(kind: str, options: list[str]) -> None:
    """Fuzzes one reader until libFuzzer's options end it."""
    folder = Path(tempfile.mkdtemp())
    canary, path = folder / "canary", folder / "input"
    whole: Callable[[bytes], bytes] = bytes
    readers: dict[str, tuple[Callable[[], object], bytes, Callable[[bytes], bytes]]] = {
        "config": (lambda: load_config(path), CONFIG, whole),
        "scores": (lambda: read_scores_csv(path), SCORES, whole),
        "truth": (lambda: read_truth(path), TRUTH, whole),
    }
    if kind in ("challenge", "target"):
        archive = (challenge_bytes if kind == "challenge" else target_bytes)(folder)
        read = (
            (lambda: load_split(path, known=True))
            if kind == "challenge"
            else (lambda: load_target(path, "cnn", backend="torch"))
        )
        # Checksums would stop nearly every change, so the pickle alone is changed and packed anew.
        readers[kind] = (read, data_pkl(archive), lambda content: repacked(archive, {"data.pkl": content}))
    read, valid, packed = readers[kind]

    def check(content: bytes) -> None:
        path.write_bytes(packed(content))
        read_or_refuse(read, path)
        if canary.exists():
            raise AssertionError("it ran")

    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "valid").write_bytes(valid)
    if kind in ("challenge", "target"):
        for number, attempt in enumerate(attempts(canary)[:11]):
            (corpus / f"attempt-{number}").write_bytes(attempt + b".")
    check(valid)
    atheris.instrument_func(torch._weights_only_unpickler.Unpickler.load)
    atheris.Setup([sys.argv[0], str(corpus), *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
