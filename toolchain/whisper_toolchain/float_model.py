"""The exported float graphs with the host's part of the model: what calibration and evaluation compare with."""

from pathlib import Path

import numpy as np
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.transcriber import Transcriber

from whisper_toolchain import third_party
from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.graph_contract import DECODER, ENCODER
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

HOST_TENSORS = ("token_embedding.weight", "positional_embedding")
"""What of the decoder the host looks up and adds, under `decoder.` in a checkpoint."""


def tokenizer_file(whisper: Path, dims: Dimensions) -> Path:
    """The tokenizer ranks that fit a vocabulary, inside the unpacked openai-whisper."""
    name = "multilingual.tiktoken" if dims.multilingual else "gpt2.tiktoken"
    return third_party.assets(whisper) / name


def load_tokenizer(whisper: Path, dims: Dimensions) -> Tokenizer:
    """The tokenizer of a model. Raises TokenizerError."""
    return Tokenizer.from_file(tokenizer_file(whisper, dims), dims.n_vocab)


def host_arrays(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Token embedding (vocab, d) and positional embedding (448, d), float32."""
    weight, positional = (checkpoint.state[f"decoder.{name}"].astype(np.float32) for name in HOST_TENSORS)
    return weight, positional


def open_float_backend(export: Path) -> OnnxRuntimeBackend:
    """The exported graphs on this CPU. Raises BackendError."""
    return OnnxRuntimeBackend(export / ENCODER, export / DECODER)


def float_transcriber(plan: ShapePlan, export: Path, checkpoint: Checkpoint, whisper: Path) -> Transcriber:
    """Transcribe with the exported float graphs, with the very code that runs on the device."""
    backend = open_float_backend(export)
    decoder = SlotDecoder(backend, TokenEmbedding(*host_arrays(checkpoint)), plan.sequence)
    return Transcriber.from_parts(backend, decoder, load_tokenizer(whisper, plan.dims), plan.seconds)
