"""The patched model is the stock model: same features and logits for the same truncated window, strict loading."""

import numpy as np
import pytest
import torch
from whisper_runtime.audio import load_audio
from whisper_runtime.mel import window_mel
from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.errors import CheckpointError
from whisper_toolchain.model import build_model
from whisper_toolchain.shape_plan import Dimensions

DIMS = Dimensions(80, 1500, 32, 2, 2, 103, 16, 32, 2, 2)


@pytest.fixture
def toy(toy_checkpoint):
    return toy_checkpoint(DIMS, 5)


def stock_model(stock_whisper, checkpoint, frames):
    """Stock modules of a shorter window: they know none, so their positional embedding is cut for them."""
    dims = {**checkpoint.dims.as_dict(), "n_audio_ctx": frames}
    model = stock_whisper.model.Whisper(stock_whisper.model.ModelDimensions(**dims))
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in checkpoint.state.items()}
    state["encoder.positional_embedding"] = state["encoder.positional_embedding"][:frames]
    model.load_state_dict(state)
    return model.requires_grad_(False).eval()


def compare(stock_whisper, patched_whisper, checkpoint, seconds, mel, tokens):
    stock = stock_model(stock_whisper, checkpoint, 50 * seconds)
    patched = build_model(patched_whisper, checkpoint, 50 * seconds)
    ids = torch.tensor([tokens])
    mel = torch.from_numpy(mel)[None]
    reference = stock.encoder(mel)
    features = patched.encoder(mel[:, :, None])
    assert features.shape == reference.shape == (1, 50 * seconds, checkpoint.dims.n_audio_state)
    assert (features - reference).abs().max() < 1e-3
    expected, logits = stock.decoder(ids, reference), patched.decoder(ids, features)
    assert logits.shape == expected.shape == (1, len(tokens), checkpoint.dims.n_vocab)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))
    assert (logits - expected).abs().max() < 1e-2
    assert reference.std() > 0.1  # or the comparison would say nothing
    assert expected.std() > 0.1


def test_real_weights_on_real_speech(stock_whisper, patched_whisper, tiny_en_checkpoint, recording):
    item = recording("1272-128104-0008")
    mel = window_mel(load_audio(item.path)[: 10 * 16000], 10)
    # start, no timestamps, then tokens of all sizes up to 32 of them
    tokens = [50257, 50362, *np.random.default_rng(0).integers(0, 50256, 30).tolist()]
    compare(stock_whisper, patched_whisper, tiny_en_checkpoint, 10, mel, tokens)


@pytest.mark.parametrize("seconds", [5, 10, 30])
def test_toy_at_every_window(stock_whisper, patched_whisper, toy, seconds):
    mel = np.random.default_rng(seconds).uniform(-1, 1.5, (80, 100 * seconds)).astype(np.float32)
    compare(stock_whisper, patched_whisper, toy, seconds, mel, [3, 102, 0, 55, 7, 7, 90, 12, 1, 64, 33, 2, 8, 9, 10, 5])


def test_the_window_is_the_checkpoints_first_rows(patched_whisper, toy):
    model = build_model(patched_whisper, toy, 250)
    kept = model.encoder.positional_embedding.numpy()
    assert np.array_equal(kept, toy.state["encoder.positional_embedding"][:250])


def test_official_shapes_load_into_2d_convolutions(patched_whisper, toy):
    assert toy.state["encoder.conv1.weight"].shape == (32, 80, 3)
    model = build_model(patched_whisper, toy, 250)
    for name in ("conv1", "conv2"):
        loaded = getattr(model.encoder, name).weight.numpy()
        official = toy.state[f"encoder.{name}.weight"]
        assert loaded.shape == (32, official.shape[1], 1, 3)
        assert np.array_equal(loaded[:, :, 0], official)


def test_float16_weights_are_computed_in_float32(patched_whisper, toy):
    half = Checkpoint("toy", DIMS, {name: array.astype(np.float16) for name, array in toy.state.items()}, {})
    model = build_model(patched_whisper, half, 250)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


@pytest.mark.parametrize(
    "name", ["encoder.conv1.weight", "encoder.positional_embedding", "decoder.blocks.1.cross_attn.key.weight"]
)
def test_a_missing_tensor_is_refused(patched_whisper, toy, name):
    del toy.state[name]
    with pytest.raises(CheckpointError) as caught:
        build_model(patched_whisper, toy, 250)
    message = str(caught.value)
    assert message.startswith("weights do not fit toy: ")
    assert name in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["decoder.extra", "encoder.blocks.2.attn.query.weight", "decoder.mask"])
def test_an_unexpected_tensor_is_refused(patched_whisper, toy, name):
    toy.state[name] = np.zeros((4, 4), np.float32)
    with pytest.raises(CheckpointError) as caught:
        build_model(patched_whisper, toy, 250)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.conv1.weight", (32, 80, 5)),
        ("encoder.positional_embedding", (249, 32)),
        ("decoder.token_embedding.weight", (104, 32)),
    ],
)
def test_a_tensor_of_another_shape_is_refused(patched_whisper, toy, name, shape):
    toy.state[name] = np.zeros(shape, np.float32)
    with pytest.raises(CheckpointError) as caught:
        build_model(patched_whisper, toy, 250)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_callers_weights_are_left_alone(patched_whisper, toy):
    before = {name: array.copy() for name, array in toy.state.items()}
    model = build_model(patched_whisper, toy, 250)
    for tensor in model.state_dict().values():
        tensor.zero_()
    assert list(toy.state) == list(before)
    for name, array in before.items():
        assert toy.state[name].shape == array.shape
        assert np.array_equal(toy.state[name], array), name


def test_the_callers_state_dict_is_left_alone(patched_whisper, toy):
    model = build_model(patched_whisper, toy, 250)
    state = {name: torch.from_numpy(array) for name, array in toy.state.items()}
    shapes = {name: tensor.shape for name, tensor in state.items()}
    model.load_state_dict(state)
    assert {name: tensor.shape for name, tensor in state.items()} == shapes


def test_vocabulary_parts_join_to_the_whole_projection(patched_whisper, toy):
    model = build_model(patched_whisper, toy, 250)
    random = torch.Generator().manual_seed(1)
    embedded = torch.randn(1, 6, 32, generator=random)
    features = torch.randn(1, 250, 32, generator=random)
    parts = model.decoder.forward_embedded(embedded, features)
    assert [part.shape for part in parts] == [(1, 6, 25)] * 3 + [(1, 6, 28)]
    rows = [part.shape[0] for part in model.decoder.vocabulary_parts()]
    assert rows == [25, 25, 25, 28]
    x = embedded
    for block in model.decoder.blocks:
        x = block(x, features, mask=model.decoder.mask)
    whole = model.decoder.ln(x) @ model.decoder.token_embedding.weight.T
    assert torch.allclose(torch.cat(parts, -1), whole, atol=1e-5)


def test_the_mask_is_finite_and_still_hides_what_comes_later(patched_whisper, toy):
    model = build_model(patched_whisper, toy, 250)
    assert torch.isfinite(model.decoder.mask).all()
    features = torch.randn(1, 250, 32, generator=torch.Generator().manual_seed(2))
    first = model.decoder(torch.tensor([[1, 2, 3, 4, 5]]), features)
    second = model.decoder(torch.tensor([[1, 2, 3, 90, 91]]), features)
    assert (first[:, :3] - second[:, :3]).abs().max() < 1e-5
    assert (first[:, 3:] - second[:, 3:]).abs().max() > 1e-2
