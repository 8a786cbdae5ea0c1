"""Small files that ask for much: refused or read in memory and time that their size bounds."""

import io
import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bridge.challenge import load_split
from bridge.target import load_target
from jaxmia.config import load_config
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.files import load_npz, read_json
from jaxmia.runs.status import read_status
from jaxmia.runs.store import ScoreStore, read_chunk
from tests.conftest import make_chunk
from tests.fuzz.test_pt import challenge_bytes, data_pkl, repacked, target_bytes
from tests.memory import MIB, peak_growth

_SECONDS = 10
_MOST = 128 * MIB
"""What a file of at most 2 MiB may take while it is read."""
_ELSEWHERE = 32 * MIB
"""What the rest of the process may take or free meanwhile, with the inaccuracy of the system's count."""


def refused(call: Callable[[], object], message: str) -> None:
    """Refused with this message, within bounds."""

    def expect() -> None:
        with pytest.raises(InputError, match=message):
            call()

    started = time.process_time()
    assert peak_growth(expect) < _MOST
    assert time.process_time() - started < _SECONDS


def archive(path: Path, records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in records.items():
            file.writestr(f"a/{name}", content)
    return path


def pickled(**fields: bytes) -> bytes:
    """The pickle of a dict whose values are made by the given opcodes."""
    return b"\x80\x02}(" + b"".join(text(name) + opcodes for name, opcodes in fields.items()) + b"u."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little")


def tensor(size: tuple[int, ...], storage: str = "Long", key: str = "0", stored: int = 1) -> bytes:
    """A tensor of this size whose strides are 0, over a record of so many numbers."""
    zeros = b"(" + b"K\0" * len(size) + b"t"
    location = b"((" + text("storage") + b"ctorch\n%bStorage\n" % storage.encode() + text(key) + text("cpu")
    sizes = b"(" + b"".join(map(integer, size)) + b"t"
    rest = zeros + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + location + integer(stored) + b"tQK\0" + sizes + rest


ONE_IMAGE = b"](" + tensor((3, 4, 4), "Byte", "1", 48) + b"e"


def read_private(path: Path) -> Pool:
    return load_split(path, known=False)


def test_memory_that_a_call_takes_is_seen():
    assert peak_growth(lambda: np.ones(_MOST + _ELSEWHERE, np.uint8)) > _MOST
    assert peak_growth(lambda: None) < _ELSEWHERE


def test_a_byte_array_is_not_made(tmp_path: Path):
    huge = b"cbuiltins\nbytearray\n" + integer(3 * 2**30) + b"\x85R"
    path = archive(
        tmp_path / "priv.pt",
        {
            "data.pkl": pickled(
                unused=huge, ids=b"](K\1e", labels=b"](K\0e", imgs=b"](" + tensor((3, 4, 4), "Byte") + b"e"
            ),
            "data/0": b"\0",
        },
    )
    found = []
    assert peak_growth(lambda: found.append(read_private(path))) < _MOST
    assert len(found[0]) == 1


@pytest.mark.parametrize("count", [2**25, 2**40, 2**62])
def test_labels_of_one_element_repeated(tmp_path: Path, count: int):
    path = archive(
        tmp_path / "priv.pt",
        {"data.pkl": pickled(labels=tensor((count,)), ids=b"]", imgs=b"]"), "data/0": bytes(8)},
    )
    refused(lambda: read_private(path), r"priv\.pt: .*its tensors repeat stored bytes too often: they have \d+ bytes")


def test_one_image_many_times_in_a_list(tmp_path: Path):
    image = tensor((3, 512, 512), "Byte", "0", 3 * 512 * 512)
    count = 2000
    path = archive(
        tmp_path / "priv.pt",
        {
            "data.pkl": pickled(
                ids=b"]",
                labels=b"]",
                imgs=b"]("
                + image.replace(b"(K\0K\0K\0t", b"(" + integer(512 * 512) + integer(512) + b"K\1t")
                + b"q\1"
                + b"h\1" * (count - 1)
                + b"e",
            ),
            "data/0": bytes(3 * 512 * 512),
        },
    )
    refused(lambda: read_private(path), r"priv\.pt: imgs unpack to 1572864000 bytes, allowed are \d+$")


@pytest.mark.parametrize("opcode", [b"]", b"(", b"}", b")", b"N"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_pickle_of_very_many_instructions(tmp_path: Path, opcode: bytes, method: int):
    stored = method == zipfile.ZIP_STORED
    path = archive(
        tmp_path / "priv.pt", {"data.pkl": b"\x80\x02" + opcode * (2 * MIB if stored else 2 * 10**7)}, method
    )
    message = "its pickle has more instructions than a file of" if stored else "unpacks to 20000002 bytes, but has"
    refused(lambda: read_private(path), rf"priv\.pt: .*{message}")


@pytest.mark.parametrize("width", [20_000, 2**20])
def test_weights_of_one_element_repeated(tmp_path: Path, width: int):
    weights = {"fc1.weight": (width, 36), "fc1.bias": (width,), "fc2.weight": (width, width), "fc2.bias": (width,)}
    path = archive(
        tmp_path / "model.pt",
        {
            "data.pkl": pickled(**{name: tensor(size, "Float") for name, size in weights.items()}),
            "data/0": bytes(4),
        },
    )
    refused(lambda: load_target(path, "mlp"), r"model\.pt: .*its tensors repeat stored bytes too often")


def test_one_record_under_names_that_differ_by_case(tmp_path: Path):
    count = 64 * MIB
    names = ["abc", "Abc", "aBc", "abC", "ABc", "AbC", "aBC", "ABC"]
    images = b"](" + b"".join(tensor((3, 4, 4), "Byte", name, count) for name in names) + b"e"
    records = {"data.pkl": pickled(ids=b"]", labels=b"]", imgs=images), "data/abc": bytes(count)}
    compressed = archive(tmp_path / "deflated.pt", records, zipfile.ZIP_DEFLATED)
    refused(lambda: read_private(compressed), r"deflated\.pt: unpacks to \d+ bytes, but has \d+")
    stored = archive(tmp_path / "stored.pt", records)

    def read() -> None:
        with pytest.raises(InputError, match=r"stored\.pt: is damaged or not allowed .*Abc"):
            read_private(stored)

    assert peak_growth(read) < 3 * count


def test_one_reader_alone_sees_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """PyTorch's own reader can be shown other records than Python's, by a zip64 locator or by case; it is not asked."""

    def fail(*arguments: object) -> None:
        raise AssertionError("PyTorch read the file")

    path = tmp_path / "valid.pt"
    path.write_bytes(challenge_bytes(tmp_path))
    monkeypatch.setattr("torch._C.PyTorchFileReader", fail)
    monkeypatch.setattr("torch.load", fail)
    assert len(load_split(path, known=True)) == 3
    path.write_bytes(target_bytes(tmp_path))
    assert load_target(path, "cnn").network


@pytest.mark.parametrize("reader", ["target", "exported", "challenge"])
def test_the_limit_of_bytes_reaches_every_reader(tmp_path: Path, reader: str):
    path = tmp_path / "file.pt"
    path.write_bytes((challenge_bytes if reader == "challenge" else target_bytes)(tmp_path))
    size = path.stat().st_size
    read: dict[str, Callable[[], object]] = {
        "target": lambda: load_target(path, "cnn", max_bytes=size - 1),
        "exported": lambda: load_target(path, "exported", max_bytes=size - 1),
        "challenge": lambda: load_split(path, known=True, max_bytes=size - 1),
    }
    refused(read[reader], rf"file\.pt: has {size} bytes, allowed are {size - 1}$")


def deflated(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return path


def test_a_pool_of_zeros(tmp_path: Path):
    zeros = np.zeros(2**28, np.int8)
    path = deflated(tmp_path / "pool.npz", ids=zeros, labels=zeros, membership=zeros)
    assert path.stat().st_size < MIB
    refused(lambda: Pool.load(path), r"pool\.npz: cannot be read as \.npz: its arrays unpack to \d+ bytes, allowed")


def test_a_chunk_of_zeros(tmp_path: Path):
    models, samples = np.arange(64), 2**22
    mask, phi = np.zeros((64, samples), bool), np.zeros((1, 1, 1), np.float32)
    path = deflated(tmp_path / "shadows" / "00000-00063.npz", model=models, mask=mask, phi=phi)
    del mask
    assert path.stat().st_size < MIB
    refused(lambda: read_chunk(path), r"00000-00063\.npz: cannot be read as \.npz: its arrays unpack to \d+ bytes")
    store = ScoreStore(tmp_path / "shadows")
    assert peak_growth(store.counts) < _MOST
    assert store.models() == set(range(64))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("<f8", (2**40,)), ("<f8", (-1, -(2**40))), ("<U0", (2**40,)), ("|V0", (2**40,)), ("<f4", (0, 2**40))],
)
def test_a_header_that_promises_more_than_there_is(tmp_path: Path, dtype: str, shape: tuple[int, ...]):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "pool.npz", "w") as file:
        file.writestr("ids.npy", head.getvalue() + bytes(8))
    refused(lambda: load_npz(tmp_path / "pool.npz"), r"pool\.npz: cannot be read as \.npz: 8 bytes are not an array of")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, method: int):
    content = io.BytesIO()
    np.save(content, np.zeros(4))
    with zipfile.ZipFile(tmp_path / "pool.npz", "w", method) as file:
        file.writestr("ids.npy", content.getvalue())
    refused(lambda: load_npz(tmp_path / "pool.npz"), r"ids\.npy is compressed by method \d+, allowed is deflate$")


def test_the_refusal_of_a_compression_is_printable(tmp_path: Path):
    path = tmp_path / "pool.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("\x01phi.npy", b"")
    with pytest.raises(InputError) as refused:
        load_npz(path)
    assert str(refused.value).isprintable()


def test_a_compressed_npz_that_anyone_might_write_is_read(tmp_path: Path):
    ids = np.array([f"sample-{i}" for i in range(100_000)])
    path = deflated(tmp_path / "pool.npz", ids=ids, labels=np.zeros(100_000, int), membership=np.full(100_000, -1))
    assert len(Pool.load(path)) == 100_000


def unfolding(template: str, levels: int = 8) -> str:
    """Each level names the one below nine times."""
    parts = [template.format(level, ", ".join([f"*a{level - 1}"] * 9)) for level in range(1, levels + 1)]
    return "\n".join(["a0: &a0 {x: 1}", *parts])


@pytest.mark.parametrize(
    "content",
    [
        unfolding("a{0}: &a{0}\n  <<: [{1}]"),
        unfolding("a{0}: &a{0} [{1}]"),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a\n  <<: *a",
        "a: [" + "1," * 25_000 + "]",
    ],
    ids=["merge keys", "aliases", "itself in a list", "itself in a mapping", "itself merged", "plain"],
)
def test_yaml_that_unfolds(tmp_path: Path, content: str):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    refused(
        lambda: load_config(path),
        r"config\.yaml: line \d+: contains more than 20,000 values with all aliases expanded$",
    )


def test_a_large_yaml_is_not_parsed(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("a: [" + "1," * 10**6 + "]")
    refused(lambda: load_config(path), r"config\.yaml: has 2000005 bytes, a YAML file may have at most 65536$")


@pytest.mark.parametrize(
    "value", ["!!timestamp 1", "!!bool x", "!!float ''", "!!int ''", "!!omap 3", "!!python/name:a"]
)
def test_values_that_are_not_what_their_tag_says(tmp_path: Path, value: str):
    path = tmp_path / "config.yaml"
    path.write_text(f"a: {value}\n")
    refused(lambda: load_config(path), r"config\.yaml: is not valid YAML: ")


def test_status_of_a_run_that_asks_for_very_many_models(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("shadow: {count: 10000000000}")
    refused(lambda: read_status(tmp_path), r"config\.yaml: shadow\.count: 10000000000 must be less than or equal to")


def test_json_of_very_many_lists(tmp_path: Path):
    path = tmp_path / "metrics.json"
    path.write_text("[" + "[]," * (8 * MIB) + "[]]")
    refused(
        lambda: read_json(path, "jaxmia score"), r"metrics\.json: cannot be read as JSON: has \d+ bytes, allowed are"
    )


def test_metadata_of_very_many_lists(tmp_path: Path):
    arrays = {"model": np.arange(2), "mask": np.ones((2, 3), bool), "phi": np.zeros((2, 1, 3), np.float32)}
    path = deflated(tmp_path / "00000-00001.npz", **arrays, metadata=np.array("[" + "[]," * MIB + "[]]"))
    refused(lambda: read_chunk(path), r"00000-00001\.npz: metadata is <U\d+ \[\], expected one text of JSON$")


@pytest.mark.parametrize(
    "read",
    [read_private, load_npz, load_config, lambda path: read_json(path, ""), lambda path: load_target(path, "exported")],
    ids=["pt", "npz", "yaml", "json", "exported"],
)
def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path, read: Callable[[Path], object]):
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: read(tmp_path / "pipe"), r"pipe: (cannot be read|is not a regular file).*")


def test_a_run_of_ordinary_size_is_read_in_a_few_times_its_size(tmp_path: Path):
    store = ScoreStore(tmp_path)
    store.write(make_chunk(list(range(32)), samples=50_000))
    size = sum(path.stat().st_size for path in store.paths())
    assert peak_growth(store.read) < 5 * size


def test_the_pickle_of_an_ordinary_challenge_is_far_below_the_bounds(tmp_path: Path):
    valid = challenge_bytes(tmp_path)
    assert len(data_pkl(valid)) < 2000
    (tmp_path / "again.pt").write_bytes(repacked(valid, {}))
    assert len(load_split(tmp_path / "again.pt", known=True)) == 3
