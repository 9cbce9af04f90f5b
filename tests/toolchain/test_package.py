"""The archive of a bundle: the same bytes wherever it is packed."""

import hashlib
import os
import shutil
import tarfile

import numpy as np
import pytest
from whisper_runtime.bundle import Bundle
from whisper_runtime.errors import BundleError
from whisper_runtime.tokenizer import Tokenizer
from whisper_toolchain.bundle_writer import make_manifest, publish, write_host_arrays
from whisper_toolchain.package import package
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

PLAN = ShapePlan("toy", "hailo8", 1, 8, Dimensions(80, 50, 2, 1, 1, 51864, 12, 2, 1, 1))
RANKS = "gpt2.tiktoken"


@pytest.fixture
def folder(whisper_assets, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    values = np.random.default_rng(0)
    (scratch / "encoder.emulated.onnx").write_bytes(values.bytes(3000))
    (scratch / "decoder.emulated.onnx").write_bytes(b"")
    shutil.copyfile(whisper_assets / RANKS, scratch / RANKS)
    write_host_arrays(scratch, PLAN, np.zeros((51864, 2), np.float32), np.ones((12, 2), np.float32))
    tokenizer = Tokenizer.from_file(scratch / RANKS, 51864)
    manifest = make_manifest(scratch, PLAN, tokenizer, RANKS, {}, {}, emulated=True, semver="0.1.0")
    return publish(scratch, manifest, tmp_path / "artifacts")


def test_names_and_digest(folder, tmp_path):
    archive = package(folder, tmp_path / "dist")
    version = Bundle.open(folder).manifest.version
    assert archive == tmp_path / "dist" / f"whisper-toy-1s-seq8-hailo8-{version}.tar.gz"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert archive.with_name(archive.name + ".sha256").read_text() == f"{digest}  {archive.name}\n"
    assert sorted(path.name for path in archive.parent.iterdir()) == [archive.name, f"{archive.name}.sha256"]


def test_same_bytes_from_copies_of_other_times_modes_and_places(folder, tmp_path):
    copy = tmp_path / "elsewhere" / "under another name"
    shutil.copytree(folder, copy)
    for number, path in enumerate(sorted(copy.iterdir(), reverse=True)):
        path.chmod(0o600 if number % 2 else 0o755)
        os.utime(path, (number, 1_000_000_000 + number))
    first, second = package(folder, tmp_path / "one"), package(copy, tmp_path / "two")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() == package(folder.parent / "latest", tmp_path / "three").read_bytes()


def test_packed_again_over_the_old_one(folder, tmp_path):
    archive = package(folder, tmp_path / "dist")
    before = archive.read_bytes()
    archive.write_bytes(b"old")
    assert package(folder, tmp_path / "dist") == archive
    assert archive.read_bytes() == before


def test_unpacks_to_a_bundle_that_verifies(folder, tmp_path):
    archive = package(folder, tmp_path / "dist")
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        tar.extractall(tmp_path / "out", filter="data")
    top = archive.name.removesuffix(".tar.gz")
    assert [member.name for member in members] == [
        f"{top}/{name}" for name in sorted(path.name for path in folder.iterdir())
    ]
    for member in members:
        assert member.isreg()
        assert (member.mode, member.mtime, member.uid, member.gid) == (0o644, 0, 0, 0)
        assert (member.uname, member.gname) == ("", "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [top]
    assert Bundle.open(tmp_path / "out" / top).manifest == Bundle.open(folder).manifest


def test_nothing_of_this_machine_is_in_the_header(folder, tmp_path):
    header = package(folder, tmp_path / "dist").read_bytes()[:10]
    assert header[:3] == b"\x1f\x8b\x08"
    assert header[3] == 0  # no name, no comment
    assert header[4:8] == b"\0\0\0\0"  # no time


@pytest.mark.parametrize("damage", ["changed", "missing", "extra", "manifest"])
def test_a_damaged_bundle_is_refused_and_nothing_is_written(folder, tmp_path, damage):
    target = folder / "encoder.emulated.onnx"
    if damage == "changed":
        target.write_bytes(target.read_bytes()[::-1])
    elif damage == "missing":
        target.unlink()
    elif damage == "extra":
        (folder / "more.txt").write_text("")
    else:
        (folder / "manifest.json").write_text("{}")
    with pytest.raises(BundleError) as caught:
        package(folder, tmp_path / "dist")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "dist").exists()
