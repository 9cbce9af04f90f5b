"""A drafted reader reads what the slots alone read, in fewer calls, however wrong the drafts are."""

from dataclasses import replace

import numpy as np
import pytest
from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.token_rules import TokenRules
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.window_reader import Prompt, WindowReader
from whisper_runtime.windows import Window
from whisper_toolchain.evaluation.drafted_reader import DraftedReader
from whisper_toolchain.export import export_graphs
from whisper_toolchain.float_model import host_arrays
from whisper_toolchain.host_decoder import write_host_decoder
from whisper_toolchain.model import build_model
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

DIMS = Dimensions(80, 50, 16, 2, 1, 51865, 448, 16, 2, 1)
PLAN = ShapePlan("toy", "hailo8", 1, 12, DIMS)
LIMIT = 30


@pytest.fixture(scope="module")
def checkpoint(sure_checkpoint):
    """Random weights that say something else in every window and do not end at once."""
    checkpoint = sure_checkpoint(DIMS, 3)
    checkpoint.state["decoder.positional_embedding"] *= 3
    return checkpoint


@pytest.fixture(scope="module")
def folder(patched_whisper, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    export_graphs(build_model(patched_whisper, checkpoint, 50), PLAN, folder)
    write_host_decoder(checkpoint, PLAN, folder, int8=False)
    (folder / "noisy").mkdir()
    random = np.random.default_rng(0)
    state = {
        name: (values * (1 + 0.1 * random.standard_normal(values.shape))).astype(np.float32)
        for name, values in checkpoint.state.items()
    }
    write_host_decoder(replace(checkpoint, state=state), PLAN, folder / "noisy")
    return folder


@pytest.mark.parametrize("drafts", [".", "noisy"], ids=["of the same weights", "of others"])
def test_drafts_save_calls_and_change_nothing(folder, checkpoint, whisper_assets, drafts):
    backend = OnnxRuntimeBackend(folder / "encoder.onnx", folder / "decoder.onnx", threads=1)
    embedding = TokenEmbedding(*host_arrays(checkpoint))
    tokenizer = Tokenizer.from_file(whisper_assets / "multilingual.tiktoken", DIMS.n_vocab)
    slots = SlotDecoder(backend, embedding, PLAN.sequence)
    host = HostDecoder(backend, embedding, folder / drafts, threads=1)
    prompt = Prompt(tokenizer.sot_sequence("en", "transcribe"), TokenRules(tokenizer))
    random = np.random.default_rng(0)
    readings, calls, tokens = {}, {}, 0
    for number in range(8):
        window = Window(0, random.normal(0, 0.1, SAMPLE_RATE // 2).astype(np.float32))
        for reader in (
            WindowReader(backend, slots, tokenizer, 1),
            DraftedReader(backend, slots, host, tokenizer, 1),
        ):
            reader._greedy._limit = LIMIT  # random weights know no end
            before, name = slots.calls, type(reader).__name__
            (readings[name, number],) = reader.read(window, reader.encode(window), prompt)
            calls[name] = calls.get(name, 0) + slots.calls - before
        assert readings["DraftedReader", number] == readings["WindowReader", number]
        tokens += len(readings["WindowReader", number].decoded.tokens)
    assert tokens > 50
    if drafts == ".":
        assert calls["DraftedReader"] < 0.5 * calls["WindowReader"]
    else:
        assert calls["DraftedReader"] <= 2 * calls["WindowReader"]
