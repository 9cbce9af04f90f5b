"""A bundle is used only if every file is what its manifest says, and nothing else is there."""

import json
import os
import random
import shutil
import time

import numpy as np
import pytest
from whisper_runtime import manifest as manifest_format
from whisper_runtime.bundle import Bundle
from whisper_runtime.errors import BundleError, TokenizerError
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.transcriber import Transcriber
from whisper_runtime.verified_files import SETTLED_NS
from whisper_toolchain.bundle_writer import is_intact, make_manifest, publish, write_host_arrays
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

DIMS = Dimensions(80, 50, 2, 1, 1, 51864, 12, 2, 1, 1)
PLAN = ShapePlan("toy", "hailo8", 1, 8, DIMS)
RANKS = "gpt2.tiktoken"
FILES = [
    "compile.log",
    "decoder.emulated.onnx",
    "encoder.emulated.onnx",
    RANKS,
    "onnx_add_input_toy.npy",
    "positional_embedding.npy",
    "token_embedding_weight_toy.npy",
]
MADE_FROM = {"checkpoint": {"tensor_digest": "0" * 64}, "calibration": {"count": 1}, "recipe": {}, "compiler": {}}


@pytest.fixture(scope="session")
def tokenizer(whisper_assets):
    return Tokenizer.from_file(whisper_assets / RANKS, DIMS.n_vocab)


@pytest.fixture
def fill(whisper_assets, tokenizer):
    """Writes the files of a small synthetic bundle into a folder and returns their manifest."""

    def call(folder, seed=0, build=None, emulated=True):
        folder.mkdir(parents=True)
        values = np.random.default_rng(seed)
        (folder / "encoder.emulated.onnx").write_bytes(values.bytes(300))
        (folder / "decoder.emulated.onnx").write_bytes(values.bytes(500))
        (folder / "compile.log").write_text("emulator: nothing\n")
        shutil.copyfile(whisper_assets / RANKS, folder / RANKS)
        embedding = values.standard_normal((51864, 2)).astype(np.float32)
        write_host_arrays(folder, PLAN, embedding, values.standard_normal((12, 2)).astype(np.float32))
        return make_manifest(
            folder, PLAN, tokenizer, RANKS, MADE_FROM, build or {"python": "3"}, emulated=emulated, semver="0.1.0"
        )

    return call


@pytest.fixture
def folder(fill, tmp_path):
    manifest = fill(tmp_path / "scratch")
    return publish(tmp_path / "scratch", manifest, tmp_path / "artifacts")


def refusal(folder, use=Bundle.open):
    with pytest.raises(BundleError) as caught:
        use(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert not is_intact(folder)
    return message


def change_one_byte(path, seed=0):
    data = bytearray(path.read_bytes())
    data[random.Random(seed).randrange(len(data))] ^= 1 + random.Random(seed).randrange(255)
    times = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# Writing


def test_published_whole(folder, tmp_path):
    bundle = Bundle.open(folder)
    assert sorted(bundle.manifest.files) == FILES
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "manifest.json"])
    assert folder.parent.name == bundle.manifest.name == "whisper-toy-1s-seq8-hailo8"
    assert folder.name == bundle.manifest.version == f"0.1.0+{bundle.manifest.content_digest[:12]}"
    assert not (tmp_path / "scratch").exists()
    assert is_intact(folder)


def test_latest_is_a_relative_link_that_is_followed_once(folder, tmp_path):
    latest = folder.parent / "latest"
    assert latest.is_symlink()
    assert str(latest.readlink()) == folder.name
    assert Bundle.open(latest).folder == folder.resolve()
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, "latest"])


def test_manifest_describes_the_graphs(folder):
    data = Bundle.open(folder).manifest.data
    mel = data["io"]["encoder"]["inputs"]
    assert [(t["name"], t["shape"], t["dtype"]) for t in mel] == [("mel", [1, 100, 80], "float32")]
    features, embeddings = data["io"]["decoder"]["inputs"]
    assert features == data["io"]["encoder"]["outputs"][0]
    assert (features["name"], features["shape"]) == ("features", [1, 50, 2])
    assert (embeddings["name"], embeddings["shape"]) == ("token_embeddings", [8, 1, 2])
    outputs = data["io"]["decoder"]["outputs"]
    assert [(t["name"], t["shape"]) for t in outputs] == [(f"logits_{i}", [1, 8, 12966]) for i in range(4)]
    assert data["provenance"] == "emulated"


def test_same_content_is_the_same_version_and_is_kept(fill, folder, tmp_path):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    again = fill(tmp_path / "again", build={"python": "another"})
    assert publish(tmp_path / "again", again, tmp_path / "artifacts") == folder
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


def test_other_content_is_another_version_and_the_latest(fill, folder, tmp_path):
    other = publish(tmp_path / "other", fill(tmp_path / "other", seed=1), tmp_path / "artifacts")
    assert other != folder
    assert Bundle.open(other.parent / "latest").folder == other.resolve()
    Bundle.open(folder)


def test_a_damaged_version_is_published_again(fill, folder, tmp_path):
    change_one_byte(folder / "encoder.emulated.onnx")
    (folder / "more.txt").write_text("more")
    assert publish(tmp_path / "again", fill(tmp_path / "again"), tmp_path / "artifacts") == folder
    assert is_intact(folder)


# Reading


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_by_name(folder, name):
    change_one_byte(folder / name)
    assert refusal(folder).startswith(f"{folder / name}: changed since the bundle was built")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    assert refusal(folder).startswith(f"{folder / name}: missing from the bundle")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["longer", "shorter", "empty"])
def test_a_file_of_another_size_is_refused_by_name(folder, name, change):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes({"longer": data + b"\0", "shorter": data[:-1], "empty": b""}[change])
    assert refusal(folder).startswith(f"{folder / name}: changed since the bundle was built")


@pytest.mark.parametrize("name", ["extra.txt", ".hidden", "encoder.hef", "manifest.json.bak"])
def test_an_extra_file_is_refused_by_name(folder, name):
    (folder / name).write_bytes(b"")
    assert refusal(folder) == f"{folder / name}: does not belong to the bundle: remove it"


def test_an_extra_folder_is_refused_by_name(folder):
    (folder / "more").mkdir()
    assert refusal(folder) == f"{folder / 'more'}: does not belong to the bundle: remove it"


@pytest.mark.parametrize("name", FILES)
def test_a_symlinked_file_is_refused(folder, tmp_path, name):
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    assert refusal(folder).startswith(f"{folder / name}: missing from the bundle")


def test_a_folder_where_a_file_belongs_is_refused(folder):
    (folder / RANKS).unlink()
    (folder / RANKS).mkdir()
    assert refusal(folder).startswith(f"{folder / RANKS}: missing from the bundle")


def test_no_bundle(tmp_path, folder):
    for place in (tmp_path, folder / RANKS):
        assert refusal(place).startswith(f"{place / 'manifest.json'}: cannot be read (")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path / "none", tmp_path / "loop"):
        assert refusal(place) == f"{place}: no such folder: build a bundle, or unpack or copy one there"


def test_the_folder_of_all_versions_is_told_from_a_bundle(folder, tmp_path):
    (tmp_path / "latest").symlink_to(folder)
    use = f"use {tmp_path / 'latest'}"
    assert refusal(tmp_path) == f"{tmp_path}: no bundle itself, it holds the versions of one: {use}"


def test_a_newer_schema(folder):
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    data["schema"] = 2
    path.write_bytes(manifest_format.serialise(data))
    assert "schema 2 is newer than this runtime" in refusal(folder)
    assert "schema 2 is newer than this runtime" in refusal(folder, Bundle.open_unverified)


def test_a_copy_that_was_cut_short_is_told_before_anything_is_hashed(folder):
    change_one_byte(folder / FILES[0])
    last = folder / FILES[-1]
    last.write_bytes(last.read_bytes()[:-1])
    assert refusal(folder).startswith(f"{last}: changed since the bundle was built")


def test_unverified_reads_only_the_manifest(folder):
    (folder / RANKS).unlink()
    assert Bundle.open_unverified(folder).manifest.eot == 50256


# Remembering what was verified


@pytest.fixture
def memory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hailo-whisper" / "verified.json"


def quick(folder):
    return Bundle.open(folder, remember=True)


def test_a_quick_start_remembers_what_it_hashed(folder, memory):
    quick(folder)
    assert not memory.exists()  # everything was written just now
    time.sleep(SETTLED_NS / 1e9)
    Bundle.open(folder)
    assert not memory.exists()
    quick(folder)
    remembered = json.loads(memory.read_text())["files"]
    assert sorted(remembered.values()) == sorted(e.sha256 for e in quick(folder).manifest.files.values())
    for name in FILES:
        change_one_byte(folder / name)
        assert refusal(folder, quick).startswith(f"{folder / name}: changed since the bundle was built")
        change_one_byte(folder / name)
        quick(folder)


def test_only_a_quick_start_believes_what_is_remembered(folder, memory):
    change_one_byte(folder / RANKS)
    info = (folder / RANKS).stat()
    identity = f"{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}"
    digest = Bundle.open_unverified(folder).manifest.files[RANKS].sha256
    memory.parent.mkdir(parents=True, mode=0o700)
    memory.write_text(json.dumps({"schema": 1, "files": {identity: digest}}))
    quick(folder)
    assert refusal(folder).startswith(f"{folder / RANKS}: changed since the bundle was built")


@pytest.mark.parametrize("change", ["missing", "extra", "cut"])
def test_a_quick_start_sees_what_needs_no_hashing(folder, memory, change):
    path = folder / ("extra.txt" if change == "extra" else FILES[1])
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(b"")
    assert refusal(folder, quick).startswith(f"{path}: ")


# What is in it


def test_the_host_part(folder):
    bundle = Bundle.open(folder)
    tokenizer, embedding = bundle.tokenizer(), bundle.embedding()
    assert tokenizer.sot_sequence() == bundle.manifest.sot_sequence == (50257, 50362)
    assert embedding.positions == 12
    weight = np.load(folder / "token_embedding_weight_toy.npy")
    positional = np.load(folder / "positional_embedding.npy")
    embedded = embedding.embed([50257, 50362], [0, 1], 8)
    assert (embedded.shape, embedded.dtype) == ((8, 1, 2), np.float32)
    assert np.array_equal(embedded[:2, 0], weight[[50257, 50362]].astype(np.float32) + positional[:2])
    assert not embedded[2:].any()
    added = np.load(folder / "onnx_add_input_toy.npy")
    assert np.array_equal(added, positional[:8])
    # What Hailo's example app does with the two arrays; its decoder takes nothing but float32.
    assert (weight.dtype, added.dtype, (weight[[1, 2]] + added[:2]).dtype) == (np.float16, np.float32, np.float32)


def written(folder, embedding):
    """The token embedding as a bundle holds it."""
    folder.mkdir()
    write_host_arrays(folder, PLAN, embedding, np.zeros((12, 2), np.float32))
    return np.load(folder / "token_embedding_weight_toy.npy")


def test_an_embedding_that_was_float16_loses_nothing(tmp_path):
    embedding = np.random.default_rng(0).standard_normal((51864, 2)).astype(np.float16).astype(np.float32)
    stored = written(tmp_path / "b", embedding)
    assert stored.dtype == np.float16
    assert np.array_equal(stored.astype(np.float32), embedding)


def test_a_fine_tuned_embedding_is_rounded_far_below_int8(tmp_path):
    embedding = np.random.default_rng(0).standard_normal((51864, 2)).astype(np.float32)
    stored = written(tmp_path / "b", embedding)
    assert stored.dtype == np.float16
    int8_rounding = (embedding.max() - embedding.min()) / 255 / 2
    assert np.abs(stored.astype(np.float32) - embedding).max() < int8_rounding / 8


def test_an_embedding_beyond_float16_stays_float32(tmp_path):
    embedding = np.ones((51864, 2), np.float32)
    embedding[7, 1] = -1e5
    stored = written(tmp_path / "b", embedding)
    assert stored.dtype == np.float32
    assert np.array_equal(stored, embedding)


@pytest.mark.parametrize("name", ["token_embedding_weight_toy.npy", "positional_embedding.npy"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_both_kinds_of_arrays_are_read(folder, name, dtype):
    np.save(folder / name, np.load(folder / name).astype(dtype))
    weight, positional = (np.load(folder / f"{n}.npy") for n in ("token_embedding_weight_toy", "positional_embedding"))
    embedded = Bundle.open_unverified(folder).embedding().embed([3, 50000], [11, 0], 2)
    assert embedded.dtype == np.float32
    wanted = weight[[3, 50000]].astype(np.float32) + positional[[11, 0]].astype(np.float32)
    assert np.array_equal(embedded[:, 0], wanted)


@pytest.mark.parametrize("name", ["token_embedding_weight_toy.npy", "positional_embedding.npy"])
@pytest.mark.parametrize("change", ["dtype", "rows", "columns", "flat", "text", "objects"])
def test_an_array_that_does_not_fit_is_refused(folder, name, change):
    path = folder / name
    array = np.load(path)
    if change == "text":
        path.write_text("no array")
    else:
        new = {
            "dtype": lambda: array.astype(np.float64),
            "rows": lambda: array[:-1],
            "columns": lambda: array[:, :1].copy(),
            "flat": lambda: array.reshape(-1),
            "objects": lambda: array[:3].astype(object),
        }[change]()
        np.save(path, new, allow_pickle=True)
    with pytest.raises(BundleError) as caught:
        Bundle.open_unverified(folder).embedding()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert ("expected float16 or float32" in message) == (change not in ("text", "objects"))


def test_a_tokenizer_of_another_prompt_is_refused(fill, tmp_path):
    manifest = fill(tmp_path / "scratch")
    data = {k: v for k, v in manifest.items() if k not in ("version", "content_digest", "manifest_digest")}
    data["tokenizer"] = {**data["tokenizer"], "sot_sequence": [50257]}
    folder = publish(tmp_path / "scratch", manifest_format.seal(data, "0.1.0"), tmp_path / "artifacts")
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder).tokenizer()
    assert "the tokenizer's prompt (50257, 50362) is not the manifest's (50257,)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_ranks_are_refused(folder):
    (folder / RANKS).write_text("damaged")
    with pytest.raises(TokenizerError) as caught:
        Bundle.open_unverified(folder).tokenizer()
    assert "\n" not in str(caught.value)


# The real one


@pytest.fixture(scope="session")
def pristine(tiny_en_bundle, tmp_path_factory):
    """A copy of the real bundle, made once; each test changes one thing and puts it back."""
    copy = tmp_path_factory.mktemp("copy") / "bundle"
    shutil.copytree(tiny_en_bundle.folder, copy)
    return copy


REAL = [
    "compile.log",
    "cross_attention.onnx",
    "decoder.emulated.onnx",
    "decoder.emulated.weights",
    "encoder.emulated.onnx",
    "encoder.emulated.weights",
    "gpt2.tiktoken",
    "host_decoder.onnx",
    "onnx_add_input_tiny.en.npy",
    "positional_embedding.npy",
    "token_embedding_weight_tiny.en.npy",
]


def test_the_real_embedding_loses_nothing(pristine, tiny_en_checkpoint):
    stored = np.load(pristine / "token_embedding_weight_tiny.en.npy")
    assert stored.dtype == np.float16
    assert np.array_equal(stored, tiny_en_checkpoint.state["decoder.token_embedding.weight"])


def test_the_real_bundle_verifies(pristine):
    bundle = Bundle.open(pristine)
    assert sorted(bundle.manifest.files) == REAL
    assert bundle.manifest.emulated
    assert bundle.manifest.seconds == 10
    assert bundle.manifest.sequence == 32
    assert bundle.tokenizer().eot == 50256
    assert bundle.embedding().positions == 448


@pytest.mark.parametrize("name", [*REAL, "manifest.json"])
def test_one_byte_of_the_real_bundle(pristine, memory, name):
    path = pristine / name
    data = path.read_bytes()
    position = random.Random(name).randrange(len(data))
    with path.open("r+b") as file:
        file.seek(position)
        file.write(bytes([data[position] ^ 0x15]))
    try:
        message = refusal(pristine)
        assert message.startswith(f"{path}: ")
        with pytest.raises(BundleError):
            Transcriber(pristine)
    finally:
        path.write_bytes(data)
    Bundle.open(pristine)


@pytest.mark.parametrize("name", [*REAL, "manifest.json"])
def test_one_file_less_in_the_real_bundle(pristine, tmp_path, name):
    path = pristine / name
    path.rename(tmp_path / name)
    try:
        assert refusal(pristine).startswith(f"{path}: ")
    finally:
        (tmp_path / name).rename(path)


def test_one_file_more_in_the_real_bundle(pristine):
    extra = pristine / "encoder.hef"
    extra.write_bytes(b"not compiled")
    try:
        assert refusal(pristine) == f"{extra}: does not belong to the bundle: remove it"
    finally:
        extra.unlink()
