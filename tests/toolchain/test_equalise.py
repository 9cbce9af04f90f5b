"""Equalisation changes what the quantiser sees, and nothing else."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.compilers.equalise import equalise
from whisper_toolchain.errors import RecipeError
from whisper_toolchain.export import export_graphs
from whisper_toolchain.graph_contract import ENCODER
from whisper_toolchain.model import build_model
from whisper_toolchain.ort_session import open_session
from whisper_toolchain.shape_plan import Dimensions, ShapePlan
from whisper_toolchain.signal_to_noise import signal_to_noise

DIMS = Dimensions(80, 50, 32, 2, 2, 103, 16, 32, 2, 2)
SCORES = ("encoder.blocks.0.attn.scores", "encoder.blocks.1.attn.scores")


@pytest.fixture
def encoder(patched_whisper, tmp_path):
    """A toy encoder of random weights whose keys have a large constant part and unequal channels."""
    torch.manual_seed(0)
    model = patched_whisper.model.Whisper(patched_whisper.model.ModelDimensions(**DIMS.as_dict()))
    state = {name: torch.randn_like(tensor) * 0.2 for name, tensor in model.state_dict().items()}
    for block in range(2):
        state[f"encoder.blocks.{block}.attn.key.weight"] *= torch.logspace(-2, 1, 32)[:, None]
        state[f"encoder.blocks.{block}.attn_ln.bias"] += 2.0
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    plan = ShapePlan("tiny", "hailo8", 1, 16, DIMS)
    export_graphs(build_model(patched_whisper, Checkpoint("tiny", DIMS, arrays, {}), 50), plan, tmp_path)
    return onnx.load(tmp_path / ENCODER)


@pytest.fixture
def rows():
    noise = np.random.default_rng(0).normal(size=(3, 1, 80, 1, 100)).astype(np.float32)
    return lambda: ({"mel": row} for row in noise)


def channel_peaks(model, rows, name):
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = open_session(probe.SerializeToString())
    return np.max([np.abs(session.run([name], feeds)[0]).max(axis=(0, 1)) for feeds in rows()], axis=0)


def test_the_features_stay_the_same(encoder, rows):
    feeds = next(iter(rows()))
    before = open_session(encoder.SerializeToString()).run(["features"], feeds)[0]
    equalise(encoder, SCORES, rows)
    onnx.checker.check_model(encoder)
    after = open_session(encoder.SerializeToString()).run(["features"], feeds)[0]
    assert signal_to_noise(before, after) > 80.0


def test_query_and_key_channels_get_the_same_peak(encoder, rows):
    equalise(encoder, SCORES, rows)
    for scores in SCORES:
        attention = scores.removesuffix(".scores")
        query = channel_peaks(encoder, rows, f"{attention}.query/Add")
        key = channel_peaks(encoder, rows, f"{attention}.key/Add")
        np.testing.assert_allclose(query, key, rtol=1e-3)


def test_nothing_to_equalise_changes_nothing(encoder, rows):
    before = encoder.SerializeToString(deterministic=True)
    equalise(encoder, [], rows)
    assert encoder.SerializeToString(deterministic=True) == before


def test_a_layer_that_is_no_attention_is_refused(encoder, rows):
    with pytest.raises(RecipeError, match=r"not the product of a query and a key"):
        equalise(encoder, ["encoder.blocks.0.mlp.scores"], rows)


def test_weights_stay_finite_for_dead_channels(encoder, rows):
    for tensor in encoder.graph.initializer:
        if tensor.name == "encoder.blocks.0.attn.key.weight":
            array = numpy_helper.to_array(tensor).copy()
            array[:, 3] = 0.0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    equalise(encoder, SCORES, rows)
    for tensor in encoder.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(tensor)).all()
