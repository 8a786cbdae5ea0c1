import io
import pickletools
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.challenge import load_split, save_challenge
from bridge.networks import build
from bridge.target import load_target, save_target
from jaxmia.data.pool import Pool
from jaxmia.models import Network
from tests.fuzz.conftest import fuzzing, read_or_refuse
from tests.fuzz.mutation import mutated


def challenge_bytes(folder: Path) -> bytes:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    pool = Pool(images, np.array([0, 1, 2]), np.array(["1", "b", "3"]), np.array([1, 0, 1], np.int8))
    save_challenge(pool, folder / "valid.pt", folder / "none.pt")
    return (folder / "valid.pt").read_bytes()


def target_bytes(folder: Path) -> bytes:
    save_target(build(Network("cnn", (8, 8, 1), 3, width=2)), folder / "model.pt")
    return (folder / "model.pt").read_bytes()


def attempts(canary: Path) -> tuple[bytes, ...]:
    """Pickles' ways to run something, which would touch the canary; and single opcodes."""
    touch = str(canary).encode()
    calls = [
        b"cos\nsystem\n(S'touch " + touch + b"'\ntR",
        b"cposix\nsystem\n(S'touch " + touch + b"'\ntR",
        b"cbuiltins\neval\n(S'open(\"" + touch + b'","w").close()\'\ntR',
        b"cos\nmknod\n(S'" + touch + b"'\ntR",
        b"(S'touch " + touch + b"'\nios\nsystem\n",
        b"(cos\nsystem\nS'touch " + touch + b"'\no",
        b"ctorch\nload\n(S'" + touch + b"'\ntR",
        b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R",
        b"c__main__\nMembershipDataset\n)R",
        b"cnumpy._core.multiarray\n_reconstruct\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
    ]
    return (*calls, *(opcode.code.encode("latin1") for opcode in pickletools.opcodes))


def repacked(archive: bytes, replace: dict[str, bytes]) -> bytes:
    """The same archive with other contents, its checksums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, replace.get(Path(name).name, old.read(name)))
    return buffer.getvalue()


def data_pkl(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))


def readers(folder: Path) -> list[tuple[str, bytes]]:
    return [("challenge", challenge_bytes(folder)), ("target", target_bytes(folder))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["challenge", "target"])
@pytest.mark.parametrize("where", ["bytes", "pickle"])
def test_a_damaged_or_hostile_file_is_read_or_refused_and_runs_nothing(folder: Path, kind: str, where: str):
    valid = dict(readers(folder))[kind]
    canary, path = folder / "canary", folder / "fuzz.pt"
    pickled = data_pkl(valid)
    contents = (
        mutated(valid)
        if where == "bytes"
        else st.one_of(mutated(pickled, attempts(canary)), st.binary(max_size=200)).map(
            lambda content: repacked(valid, {"data.pkl": content})
        )
    )

    def read() -> object:
        if kind == "challenge":
            return load_split(path, known=True)
        return load_target(path, "cnn", backend="torch")

    outcomes = set()

    @fuzzing
    @given(contents)
    @example(repacked(valid, {"data.pkl": pickled.replace(b"FloatStorage", b"\0FloatStorage")}))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        outcomes.add(read_or_refuse(read, path))
        assert not canary.exists()

    path.write_bytes(valid)
    read()
    check()
    assert False in outcomes


def test_each_way_to_run_something_is_refused_and_would_work_on_a_plain_unpickler(folder: Path):
    """The canary sings: the first attempts do touch it where nothing guards."""
    import pickle

    canary, path = folder / "canary-alive", folder / "attempt.pt"
    valid = challenge_bytes(folder)
    for attempt in attempts(canary)[:5]:
        path.write_bytes(repacked(valid, {"data.pkl": attempt + b"."}))
        assert not read_or_refuse(lambda: load_split(path, known=True), path)
        assert not canary.exists()
        pickle.loads(attempt + b".")
        assert canary.exists()
        canary.unlink()
