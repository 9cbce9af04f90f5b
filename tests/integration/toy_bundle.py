"""Toy bundles: random graphs of the contract, Whisper's real vocabulary, a sealed manifest."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from whisper_runtime import manifest
from whisper_runtime.tokenizer import Tokenizer

SECONDS, SEQUENCE, WIDTH = 1, 12, 4
ARCHITECTURES = {"hailo8": 1, "hailo8l": 3, "hailo10h": 103}
SIXTEEN = (2, 32768.0, 3e-4)  # bytes, zero point, scale of a stream


def parts_of(n_vocab: int) -> list[int]:
    return [n_vocab // 4] * 3 + [n_vocab - 3 * (n_vocab // 4)]


def graphs(n_vocab: int, seed: int) -> dict[str, bytes]:
    """Encoder and decoder; each row of logits depends on the features and on that row's embedding."""
    values = np.random.default_rng(seed)

    def weight(name, *shape):
        return numpy_helper.from_array(values.normal(0, 0.3, shape).astype(np.float32), name)

    def tensor(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    frames = 50 * SECONDS
    encoder = helper.make_graph(
        [
            helper.make_node("Transpose", ["mel"], ["t"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", ["t", "shape"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["p"]),
            helper.make_node("Tanh", ["p"], ["features"]),
        ],
        "encoder",
        [tensor("mel", [1, 80, 1, 2 * frames])],
        [tensor("features", [1, frames, WIDTH])],
        [numpy_helper.from_array(np.array([1, frames, 160]), "shape"), weight("w", 160, WIDTH)],
    )
    parts = parts_of(n_vocab)
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Squeeze", ["token_embeddings", "last"], ["s"]),
        helper.make_node("Transpose", ["s"], ["x"], perm=[0, 2, 1]),
        helper.make_node("Add", ["x", "mean"], ["h"]),
        *(helper.make_node("MatMul", ["h", f"v{i}"], [f"logits_{i}"]) for i in range(4)),
    ]
    decoder = helper.make_graph(
        nodes,
        "decoder",
        [tensor("features", [1, frames, WIDTH]), tensor("token_embeddings", [1, WIDTH, SEQUENCE, 1])],
        [tensor(f"logits_{i}", [1, SEQUENCE, size]) for i, size in enumerate(parts)],
        [numpy_helper.from_array(np.array([3]), "last"), *(weight(f"v{i}", WIDTH, n) for i, n in enumerate(parts))],
    )
    opset = [helper.make_opsetid("", 13)]
    return {
        name: helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
        for name, graph in (("encoder", encoder), ("decoder", decoder))
    }


def write_hefs(
    hef_file, folder: Path, models: dict[str, bytes], n_vocab: int, arch: str, names: dict[str, str]
) -> None:
    """Write HEFs that the strict fake runs; `names`: file names of encoder and decoder."""

    def stream(name, shape, onnx_name, original):
        return hef_file.FakeStream(name, shape, *SIXTEEN, (original,), onnx_name)

    frames = 50 * SECONDS
    streams = {
        "encoder": (
            [stream("toy_enc/input_layer1", (1, 2 * frames, 80), "mel", "mel")],
            [stream("toy_enc/conv9", (1, frames, WIDTH), "features", "encoder.ln_post/Add")],
        ),
        "decoder": (
            [
                stream("toy_dec/input_layer1", (1, frames, WIDTH), "features", "features"),
                stream("toy_dec/input_layer2", (SEQUENCE, 1, WIDTH), "token_embeddings", "/Reshape"),
            ],
            [
                stream(f"toy_dec/conv{49 + i}", (1, SEQUENCE, n), f"logits_{i}", f"decoder.vocabulary.{i}/MatMul")
                for i, n in enumerate(parts_of(n_vocab))
            ],
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for part, (inputs, outputs) in streams.items():
        content = hef_file.build_hef(
            hw_arch=ARCHITECTURES[arch],
            network_group=f"toy_{part[:3]}",
            inputs=inputs,
            outputs=outputs,
            payload=hef_file.graph_payload(models[part], {item.name: item.onnx_name for item in (*inputs, *outputs)}),
        )
        (folder / names[part]).write_bytes(content)


def write_toy_bundle(folder: Path, assets: Path, variant: str, arch: str, *, seed: int = 0, hef_file=None) -> Path:
    """Write a bundle: emulated, or compiled for the strict fake with `hef_file`, the writer of synthetic HEFs."""
    vocabulary, n_vocab = ("gpt2.tiktoken", 51864) if variant.endswith(".en") else ("multilingual.tiktoken", 51865)
    tokenizer = Tokenizer.from_file(assets / vocabulary, n_vocab)
    folder.mkdir(parents=True)
    models = graphs(n_vocab, seed)
    if hef_file is None:
        for part, model in models.items():
            (folder / f"{part}.emulated.onnx").write_bytes(model)
    else:
        write_hefs(hef_file, folder, models, n_vocab, arch, {part: f"{part}.hef" for part in models})
    values = np.random.default_rng(100 + seed)
    positional = values.normal(0, 0.5, (448, WIDTH)).astype(np.float32)
    embedding = values.normal(0, 0.5, (n_vocab, WIDTH)).astype(np.float16)
    np.save(folder / f"token_embedding_weight_{variant}.npy", embedding)
    np.save(folder / "positional_embedding.npy", positional)
    np.save(folder / f"onnx_add_input_{variant}.npy", positional[:SEQUENCE])
    shutil.copyfile(assets / vocabulary, folder / vocabulary)
    files = {
        path.name: {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
    }
    data = {
        "schema": manifest.SCHEMA,
        "name": f"whisper-{variant}-{SECONDS}s-seq{SEQUENCE}-{arch}",
        "provenance": manifest.COMPILED if hef_file else manifest.EMULATED,
        "files": files,
        "model": {
            "variant": variant,
            "arch": arch,
            "seconds": SECONDS,
            "sequence": SEQUENCE,
            "dims": {"n_mels": 80, "n_text_state": WIDTH, "n_text_ctx": 448, "n_vocab": n_vocab},
            "vocabulary_parts": parts_of(n_vocab),
        },
        "tokenizer": {"sot_sequence": list(tokenizer.sot_sequence()), "eot": tokenizer.eot, "file": vocabulary},
        "build": {},
        "evaluations": [],
    }
    (folder / manifest.FILENAME).write_bytes(manifest.serialise(manifest.seal(data, "0.1.0")))
    return folder
