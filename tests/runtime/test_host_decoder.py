"""The decoder on the CPU: its cache changes nothing, and every way it can be missing is said."""

import shutil
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import BackendError, DeviceTimeoutError
from whisper_runtime.host_decoder import CROSS_ATTENTION, HOST_DECODER, HostDecoder
from whisper_runtime.transcriber import Transcriber
from whisper_toolchain.float_model import host_arrays, load_tokenizer
from whisper_toolchain.host_decoder import write_host_decoder
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

DIMS = Dimensions(80, 50, 32, 2, 2, 103, 448, 32, 2, 3)
PLAN = ShapePlan("toy", "hailo8", 1, 12, DIMS)
PROMPT = (7, 3, 9)


class AsTheyAre:
    """A backend whose features are numbers already; None is what it cannot read."""

    def read_features(self, features):
        if features is None:
            raise DeviceTimeoutError("the device is gone")
        return features


@pytest.fixture(scope="module")
def checkpoint(toy_checkpoint):
    return toy_checkpoint(DIMS, 3)


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    write_host_decoder(checkpoint, PLAN, folder)
    return folder


@pytest.fixture(scope="module")
def make(folder, checkpoint):
    def call(where=folder):
        return HostDecoder(AsTheyAre(), TokenEmbedding(*host_arrays(checkpoint)), where, threads=1)

    return call


@pytest.fixture
def decoder(make):
    """In its first window."""
    decoder = make()
    decoder.begin(features())
    return decoder


@pytest.fixture(scope="module")
def from_scratch(make):
    """Logits of all tokens, computed in a window of their own."""
    decoder = make()

    def call(tokens, seed=0):
        decoder.begin(features(seed))
        return decoder.logits(tokens, [], range(len(tokens)))

    return call


def features(seed=0):
    return np.random.default_rng(seed).standard_normal((1, PLAN.feature_frames, DIMS.n_text_state)).astype(np.float32)


# The cache


REQUESTS = st.lists(
    st.lists(st.integers(0, 2), max_size=6).flatmap(  # few different tokens, so that many beginnings are shared
        lambda text: st.tuples(
            st.just(text), st.sets(st.integers(0, len(PROMPT) + len(text) - 1), min_size=1).map(sorted)
        )
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(REQUESTS)
def test_what_was_asked_before_changes_no_bit(make, from_scratch, requests):
    """Longer and shorter texts, other texts, rows in the prompt, rows left out: as if each was the first."""
    decoder = make()
    decoder.begin(features())
    for text, rows in requests:
        found = decoder.logits(PROMPT, text, rows)
        assert (found == from_scratch([*PROMPT, *text])[rows]).all()


def test_it_starts_from_the_longest_common_beginning(decoder):
    decoder.logits(PROMPT, [], [0, 2])
    assert decoder.calls == 3
    decoder.logits(PROMPT, [1, 2, 3, 4], [6])
    assert decoder.calls == 7
    decoder.logits(PROMPT, [1, 2, 8, 4], [6])
    assert decoder.calls == 9
    decoder.logits(PROMPT, [1, 2], [4])  # its logits are not kept, so the last token is computed again
    assert decoder.calls == 10
    decoder.logits((7, 4, 9), [1, 2], [4])
    assert decoder.calls == 14


def test_nothing_behind_the_last_row_is_computed(decoder):
    decoder.logits(PROMPT, [1, 2, 3, 4], [2])
    assert decoder.calls == 3


def test_another_window_starts_anew(make, from_scratch):
    decoder = make()
    for seed in (0, 1, 0):
        decoder.begin(features(seed))
        assert (decoder.logits(PROMPT, [1, 2], [2, 4]) == from_scratch([*PROMPT, 1, 2], seed)[[2, 4]]).all()
    assert (from_scratch(PROMPT, 0) != from_scratch(PROMPT, 1)).any()


def test_a_result_is_the_callers(decoder):
    first = decoder.logits(PROMPT, [], [2])
    assert (first.dtype, first.shape) == (np.float32, (1, DIMS.n_vocab))
    kept = first.copy()
    first[:] = 0
    decoder.logits(PROMPT, [5], [3])
    assert (decoder.logits(PROMPT, [], [2]) == kept).all()


def test_no_guess_is_worth_a_call(decoder):
    assert decoder.room(3, 0) == decoder.room(3, 100) == 0


# Several texts at once


@pytest.fixture(scope="module")
def exact(checkpoint, tmp_path_factory):
    """Makes decoders with float weights, which differ from call to call in the order of sums alone."""
    folder = tmp_path_factory.mktemp("float")
    write_host_decoder(checkpoint, PLAN, folder, int8=False)
    return lambda: HostDecoder(AsTheyAre(), TokenEmbedding(*host_arrays(checkpoint)), folder, threads=1)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 99), st.integers(0, DIMS.n_vocab - 1)), min_size=1, max_size=4),
        min_size=1,
        max_size=6,
    )
)
def test_each_text_is_as_if_it_were_alone(exact, steps):
    """A tree: at each step some of the texts grow, several times over."""
    tree, alone = exact(), exact()
    for decoder in (tree, alone):
        decoder.begin(features())
    texts = [()]
    for step in steps:
        texts = [(*texts[parent % len(texts)], token) for parent, token in step]
        calls = tree.calls
        found = tree.branches(PROMPT, texts)
        assert tree.calls - calls == 1 or len(texts[0]) == 1  # at first the prompt has to be computed
        expected = [alone.logits(PROMPT, text, [len(PROMPT) + len(text) - 1])[0] for text in texts]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_branches_leave_the_text_as_it_was(make, from_scratch):
    decoder = make()
    decoder.begin(features())
    first = decoder.logits(PROMPT, [1, 2], [4])
    decoder.branches(PROMPT, [[5], [6]])
    decoder.branches(PROMPT, [[6, 7], [5, 8], [6, 9]])
    assert (decoder.logits(PROMPT, [1, 2], [4]) == first).all()
    assert (first == from_scratch([*PROMPT, 1, 2])[[4]]).all()


def test_the_same_branches_are_the_same_bit_for_bit(make):
    """So a recording has the same text each time."""

    def found():
        decoder = make()
        decoder.begin(features())
        return [decoder.branches(PROMPT, texts) for texts in ([[5], [6]], [[6, 7], [5, 8], [6, 9]])]

    for first, second in zip(found(), found(), strict=True):
        assert (first == second).all()


def test_a_branch_needs_a_beginning(decoder):
    decoder.branches(PROMPT, [[1], [2]])
    with pytest.raises(ValueError, match="more than a token longer"):
        decoder.branches(PROMPT, [[1, 2], [3, 4]])
    decoder.begin(features(1))
    with pytest.raises(ValueError, match="more than a token longer"):
        decoder.branches(PROMPT, [[1, 2]])


def test_branches_need_a_window_and_a_position(make, exact):
    with pytest.raises(BackendError, match="call begin first"):
        make().branches(PROMPT, [[1]])
    decoder = exact()
    decoder.begin(features())
    text = [1] * 445
    decoder.branches(PROMPT, [text[:1]])
    for end in range(2, 446):
        decoder.branches(PROMPT, [text[:end]])
    with pytest.raises(ValueError, match="row 448: the model knows 448 positions"):
        decoder.branches(PROMPT, [[*text, 1]])


# Several pictures


def log_softmax(logits):
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


def test_of_two_pictures_it_is_the_mean_of_the_log_probabilities(make, from_scratch):
    decoder = make()
    decoder.begin(features(0))
    decoder.logits(PROMPT, [1], [3])
    decoder.also(features(1))
    found = decoder.logits(PROMPT, [1, 2], [2, 4])
    expected = [log_softmax(from_scratch([*PROMPT, 1, 2], seed)[[2, 4]]) for seed in (0, 1)]
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-5)
    branched = decoder.branches(PROMPT, [[1]])
    np.testing.assert_allclose(branched, decoder.logits(PROMPT, [1], [3]), atol=0.05)  # in int8
    decoder.begin(features(1))
    assert (decoder.logits(PROMPT, [1, 2], [2, 4]) == from_scratch([*PROMPT, 1, 2], 1)[[2, 4]]).all()


def test_a_second_picture_that_fails_leaves_no_window(decoder):
    with pytest.raises(DeviceTimeoutError):
        decoder.also(None)
    with pytest.raises(BackendError, match="call begin first"):
        decoder.branches(PROMPT, [[1]])


# Limits


def test_every_position_of_the_model_and_no_more(decoder):
    text = [token % DIMS.n_vocab for token in range(445)]
    assert np.isfinite(decoder.logits(PROMPT, text, [447])).all()
    with pytest.raises(ValueError, match="row 448: the model knows 448 positions"):
        decoder.logits(PROMPT, [*text, 1], [448])
    decoder.logits(PROMPT, [*text, 1], [447])  # the last token is not needed


@pytest.mark.parametrize("rows", [[-1, 0], [5], [2, 9]])
def test_rows_must_be_tokens(decoder, rows):
    with pytest.raises(ValueError, match="there are 5 tokens"):
        decoder.logits(PROMPT, [1, 2], rows)


def test_a_window_has_to_begin_first(make):
    with pytest.raises(BackendError, match="call begin first"):
        make().logits(PROMPT, [], [2])


def test_a_window_that_failed_leaves_nothing_of_the_one_before(decoder):
    decoder.logits(PROMPT, [], [2])
    with pytest.raises(DeviceTimeoutError):
        decoder.begin(None)
    with pytest.raises(BackendError, match="call begin first"):
        decoder.logits(PROMPT, [], [2])
    decoder.begin(features())
    decoder.logits(PROMPT, [], [2])


def test_features_of_another_model_are_an_error(decoder):
    with pytest.raises(BackendError, match="onnxruntime failed"):
        decoder.begin(features()[:, :, 1:])


# What can be missing


def message_of(call, *arguments):
    with pytest.raises(BackendError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", [CROSS_ATTENTION, HOST_DECODER])
def test_a_bundle_of_an_earlier_version(make, folder, tmp_path, name):
    old = shutil.copytree(folder, tmp_path / "old")
    (old / name).unlink()
    message = message_of(make, old)
    assert message.startswith(f"{old}: has no {name}")
    assert "build the bundle again" in message
    assert "--decoder device" in message


def test_a_graph_of_an_earlier_version(make, folder, tmp_path):
    """It took one token and knew nothing of hidden ones."""
    old = shutil.copytree(folder, tmp_path / "old")
    graph = onnx.load(old / HOST_DECODER)
    for each in [*graph.graph.input]:
        if each.name == "hidden":
            each.name = "of_earlier"
    for node in graph.graph.node:
        node.input[:] = ["of_earlier" if name == "hidden" else name for name in node.input]
    onnx.save(graph, old / HOST_DECODER)
    message = message_of(make, old)
    assert "build the bundle again" in message
    assert "--decoder device" in message


def test_a_graph_from_before_words_had_times(make, folder, tmp_path):
    """It decodes as ever."""
    old = shutil.copytree(folder, tmp_path / "old")
    graph = onnx.load(old / HOST_DECODER)
    del graph.graph.output[-1]
    onnx.save(graph, old / HOST_DECODER)
    decoder = make(old)
    decoder.begin(features())
    assert decoder.logits(PROMPT, [], [2]).shape == (1, DIMS.n_vocab)
    assert not decoder.aligns
    assert make().aligns


def test_where_it_looks_changes_nothing_of_what_it_reads(make, from_scratch):
    decoder = make()
    decoder.begin(features())
    before = decoder.logits(PROMPT, [1], [2, 3])
    scores, probabilities = decoder.align(PROMPT, [4, 5])
    assert scores.shape[1:] == (3, PLAN.feature_frames)
    assert probabilities.shape == (2,)
    assert np.array_equal(decoder.logits(PROMPT, [1], [2, 3]), before)
    logits = from_scratch([*PROMPT, 4])
    assert probabilities[1] == pytest.approx(np.exp(log_softmax(logits[3])[5]), rel=1e-5)


def test_without_onnxruntime_it_says_what_to_install(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = message_of(make)
    assert "--decoder host" in message
    assert "pip install 'onnxruntime>=1.23,<1.24'" in message


def test_a_damaged_graph_is_named(make, folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / HOST_DECODER).write_bytes((damaged / HOST_DECODER).read_bytes()[:1000])
    assert f"{damaged / HOST_DECODER}: onnxruntime cannot load it" in message_of(make, damaged)


# The emulated backend without its decoder


def test_a_backend_that_only_encodes(tiny_en_bundle):
    encoder, decoder = (tiny_en_bundle.exported.folder / f"{name}.onnx" for name in ("encoder", "decoder"))
    mel = np.random.default_rng(0).standard_normal((1, 1000, 80)).astype(np.float32)
    with OnnxRuntimeBackend(encoder, None) as backend, OnnxRuntimeBackend(encoder, decoder) as whole:
        encoded = backend.encode(mel)
        assert backend.read_features(encoded).shape == (1, 500, 384)
        assert (backend.read_features(encoded) == whole.read_features(whole.encode(mel))).all()
        message = message_of(backend.decode, encoded, np.zeros((32, 1, 384), np.float32), [0])
        assert "open the bundle with its decoder" in message


# Real speech


@pytest.mark.parametrize("threads", [1, None])
def test_it_transcribes_speech(tiny_en_bundle, tiny_en_checkpoint, tiny_en_plan, patched_tree, jfk, threads):
    exported = tiny_en_bundle.exported.folder
    backend = OnnxRuntimeBackend(exported / "encoder.onnx", None, threads)
    decoder = HostDecoder(backend, TokenEmbedding(*host_arrays(tiny_en_checkpoint)), exported, threads)
    tokenizer = load_tokenizer(patched_tree, tiny_en_plan.dims)
    with Transcriber.from_parts(backend, decoder, tokenizer, tiny_en_plan.seconds) as transcriber:
        text = words(transcriber.text(jfk))
        assert text.startswith("and so my fellow americans ask")
        assert text.endswith("not what your country can do for you ask what you can do for your country")


def test_it_transcribes_speech_with_a_bundle(tiny_en_bundle, jfk):
    """The emulated encoder may lose a word."""
    with Transcriber(tiny_en_bundle.folder, decoder="host") as transcriber:
        assert "what your country can do for you" in words(transcriber.text(jfk))
        assert transcriber.text_decoder.name == "host"


@pytest.mark.parametrize("beam_size", [1, 2])
@pytest.mark.parametrize("decoder", ["device", "host"])
def test_the_beam_size_is_the_users(tiny_en_bundle, jfk, decoder, beam_size):
    with Transcriber(tiny_en_bundle.folder, decoder=decoder, beam_size=beam_size) as transcriber:
        assert transcriber.text_decoder.beam_size == beam_size
        assert "what your country can do for you" in words(transcriber.text(jfk))


@pytest.mark.parametrize("decoder", ["device", "host", "auto"])
def test_a_beam_of_none_is_refused(tiny_en_bundle, decoder):
    with pytest.raises(ValueError, match="a beam size of 0"):
        Transcriber(tiny_en_bundle.folder, decoder=decoder, beam_size=0)


def words(text):
    return "".join(letter for letter in text.lower() if letter.isalpha() or letter == " ")
