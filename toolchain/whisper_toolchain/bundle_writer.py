"""Writes a bundle: collects its files, seals the manifest, and publishes the folder in one step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from whisper_runtime import manifest as manifest_format
from whisper_runtime.bundle import Bundle
from whisper_runtime.errors import BundleError, HefError
from whisper_runtime.hef import check_outputs, read_hef
from whisper_runtime.tokenizer import Tokenizer

from whisper_toolchain.download import sha256_file
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import remove_tree, sync_tree


def write_host_arrays(folder: Path, plan: ShapePlan, embedding: np.ndarray, positional: np.ndarray) -> None:
    """Write the arrays that the host adds and looks up, under the names of the bundle's contract.

    The token embedding is written as float16, in half the space. That loses nothing of the official checkpoints, which
    are stored that way. Weights that were fine-tuned in float32 are rounded by at most one part in 2048 of a value: an
    eighth of what the 256 steps of the decoder's input round the largest ones by. Only where a value is beyond
    float16 (65504) all stay float32. The rows that are added are float32, and so is the sum, here and in the example
    app.

    Args:
        folder: where to write.
        plan: variant and sequence.
        embedding: (vocab, d) float32.
        positional: (448, d) float32; its first rows are also written under the example app's name.
    """
    if np.abs(embedding).max() <= np.finfo(np.float16).max:
        embedding = embedding.astype(np.float16)
    np.save(folder / f"token_embedding_weight_{plan.variant}.npy", embedding, allow_pickle=False)
    np.save(folder / "positional_embedding.npy", positional, allow_pickle=False)
    np.save(folder / f"onnx_add_input_{plan.variant}.npy", positional[: plan.sequence].copy(), allow_pickle=False)


def check_hef(path: Path, plan: ShapePlan) -> None:
    """Refuse a compiled graph that is damaged or for another architecture than the bundle's. Raises HefError."""
    hef = read_hef(path)
    if hef.architecture != plan.arch:
        raise HefError(
            f"{path}: compiled for {hef.architecture}, the bundle is for {plan.arch}: run the compile stage again "
            f"with ARCH={plan.arch}, or build the bundle with ARCH={hef.architecture}"
        )
    check_outputs(hef)


def make_manifest(
    folder: Path,
    plan: ShapePlan,
    tokenizer: Tokenizer,
    tokenizer_file: str,
    made_from: Mapping[str, Any],
    build: Mapping[str, Any],
    *,
    emulated: bool,
    semver: str,
) -> dict[str, Any]:
    """Describe a folder of finished files.

    Args:
        folder: holds every file of the bundle but the manifest.
        plan: the shapes.
        tokenizer: the model's tokenizer.
        tokenizer_file: name of its ranks in the folder.
        made_from: the manifest's `checkpoint`, `calibration`, `recipe` and `compiler`.
        build: what does not belong to the content: versions, revision, measurements.
        emulated: True if the graphs come from the emulator.
        semver: the toolchain's version.
    """
    state, sequence = plan.state, plan.sequence

    def tensor(name: str, *shape: int) -> dict[str, Any]:
        return {"name": name, "shape": list(shape), "dtype": "float32", "layout": "NHWC"}

    features = tensor("features", 1, plan.feature_frames, state)
    return manifest_format.seal(
        {
            "schema": manifest_format.SCHEMA,
            "name": plan.bundle_name,
            "provenance": manifest_format.EMULATED if emulated else manifest_format.COMPILED,
            "model": {
                "variant": plan.variant,
                "arch": plan.arch,
                "seconds": plan.seconds,
                "sequence": sequence,
                "dims": plan.dims.as_dict(),
                "vocabulary_parts": list(plan.vocabulary_parts),
            },
            "tokenizer": {
                "file": tokenizer_file,
                "multilingual": tokenizer.multilingual,
                "sot_sequence": list(tokenizer.sot_sequence()),
                "eot": tokenizer.eot,
                "no_speech": tokenizer.no_speech,
                "no_timestamps": tokenizer.no_timestamps,
                "timestamp_begin": tokenizer.timestamp_begin,
            },
            "io": {
                "encoder": {
                    "inputs": [tensor("mel", 1, plan.mel_frames, plan.dims.n_mels)],
                    "outputs": [features],
                },
                "decoder": {
                    "inputs": [features, tensor("token_embeddings", sequence, 1, state)],
                    "outputs": [
                        tensor(f"logits_{part}", 1, sequence, size) for part, size in enumerate(plan.vocabulary_parts)
                    ],
                },
                "host_decoder": _host_decoder_io(plan),
            },
            "files": {
                path.name: {"size": path.stat().st_size, "sha256": sha256_file(path)}
                for path in sorted(folder.iterdir())
            },
            **made_from,
            "build": dict(build),
            "evaluations": [],
        },
        semver,
    )


def _host_decoder_io(plan: ShapePlan) -> dict[str, Any]:
    """Inputs and outputs of the graphs that `host_decoder` writes; p tokens are cached, n new; a heads follow sound."""
    heads = plan.dims.n_text_head
    width = plan.state // heads

    def tensor(name: str, *shape: int | str, dtype: str = "float32") -> dict[str, Any]:
        return {"name": name, "shape": list(shape), "dtype": dtype}

    def attention(name: str, length: int | str) -> list[dict[str, Any]]:
        blocks = range(plan.dims.n_text_layer)
        return [tensor(f"{name}_{part}_{block}", heads, length, width) for block in blocks for part in ("key", "value")]

    frames = plan.host_frames
    cross = attention("cross", frames)
    return {
        "window_seconds": plan.host_seconds,
        "cross_attention": {
            "inputs": [tensor("features", 1, frames, plan.state)],
            "outputs": cross,
        },
        "decoder": {
            "inputs": [
                tensor("token_embeddings", "n", plan.state),
                tensor("hidden", "n", "p_and_n"),
                tensor("rows", "r", dtype="int64"),
                *attention("self", "p"),
                *cross,
            ],
            "outputs": [
                *attention("new_self", "p_and_n"),
                tensor("logits", "r", plan.dims.n_vocab),
                tensor("alignment", "a", "n", frames),
            ],
        },
    }


def publish(folder: Path, manifest: Mapping[str, Any], artifacts: Path) -> Path:
    """Move a finished folder to `artifacts/<name>/<version>` and point `latest` at it.

    A version that is already there and intact is kept as it is; a damaged one is replaced.

    Args:
        folder: holds every file but the manifest; on the same file system as `artifacts`.
        manifest: what `make_manifest` returned.
        artifacts: folder of all bundles.

    Returns:
        The bundle's folder.
    """
    target = artifacts / str(manifest["name"]) / str(manifest["version"])
    if not is_intact(target):
        (folder / manifest_format.FILENAME).write_bytes(manifest_format.serialise(manifest))
        sync_tree(folder)
        remove_tree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.replace(target)
    point_latest(target)
    return target


def point_latest(target: Path) -> None:
    """Make `latest`, beside a bundle's folder, a link to it, in one step."""
    latest = target.parent / "latest"
    beside = target.parent / ".latest"
    beside.unlink(missing_ok=True)
    beside.symlink_to(target.name, target_is_directory=True)
    beside.replace(latest)


def is_intact(folder: Path) -> bool:
    """True if a folder is a bundle and verifies."""
    try:
        Bundle.open(folder)
    except BundleError:
        return False
    return True
