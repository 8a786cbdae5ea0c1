import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import jaxmia
from jaxmia import provenance


def test_origin_is_plain_json_and_names_versions_and_device():
    origin = json.loads(json.dumps(provenance.origin()))
    assert origin["jaxmia"] == jaxmia.__version__
    assert origin["numpy"] == np.__version__
    assert origin["platform"] in ("cpu", "gpu", "cuda", "tpu")
    assert origin["device"]


def test_a_digest_tells_type_shape_order_and_bytes_apart():
    base = np.arange(6, dtype=np.int32).reshape(2, 3)
    others = [base.astype(np.int64), base.reshape(3, 2), base.T, base + 1, base[:, :0], base.tobytes()]
    digests = [provenance.digest(part) for part in (base, *others)]
    assert len(set(digests)) == len(digests)
    assert provenance.digest(base, base + 1) != provenance.digest(base + 1, base)


def test_a_digest_does_not_depend_on_the_layout_in_memory():
    base = np.arange(6).reshape(2, 3)
    assert provenance.digest(np.asfortranarray(base)) == provenance.digest(base)
    assert provenance.digest(np.arange(12)[::2]) == provenance.digest(np.arange(12)[::2].copy())


def test_a_digest_of_bytes_and_of_a_file_is_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()[:16]
    assert provenance.digest(b"abc") == provenance.digest(b"a", b"bc") == expected
    assert provenance.file_digest(tmp_path / "a") == expected


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch) -> Path:
    package = tmp_path / "jaxmia"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_that_of_the_package_and_says_whether_files_differ(checkout: Path):
    assert provenance.commit() is None
    git(checkout, "init", "-q")
    (checkout / "other").write_text("")
    git(checkout, "add", "other")
    git(checkout, "commit", "-q", "-m", "other")
    assert provenance.commit() is None, "installed inside somebody else's checkout"
    git(checkout, "add", "jaxmia")
    git(checkout, "commit", "-q", "-m", "package")
    head = git(checkout, "rev-parse", "HEAD")[:12]
    assert provenance.commit() == head
    (checkout / "other").write_text("changed")
    assert provenance.commit() == head + "+"


def test_no_git_is_no_commit(checkout: Path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None
