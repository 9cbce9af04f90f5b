"""Toy bundles: random graphs of the contract, Whisper's real vocabulary, a sealed manifest."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
from whisper_runtime import manifest
from whisper_runtime.tokenizer import Tokenizer

from tests.toy_graphs import toy_graphs

SECONDS, SEQUENCE, WIDTH = 1, 12, 4
ARCHITECTURES = {"hailo8": 1, "hailo8l": 3, "hailo10h": 103}
SIXTEEN = (2, 32768.0, 3e-4)  # bytes, zero point, scale of a stream


def parts_of(n_vocab: int) -> list[int]:
    return [n_vocab // 4] * 3 + [n_vocab - 3 * (n_vocab // 4)]


def models_of(n_vocab: int, seed: int) -> dict[str, bytes]:
    """Graphs of the encoder and the decoder for a vocabulary."""
    graphs = toy_graphs(WIDTH, SEQUENCE, parts_of(n_vocab), seed)
    return dict(zip(("encoder", "decoder"), graphs, strict=True))


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
    models = models_of(n_vocab, seed)
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
