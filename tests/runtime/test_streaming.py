"""Streams: committed text is that of the whole recording, however it comes in; drafts save calls and change nothing."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import AudioError, TokenizerError
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.streaming import StreamTranscriber
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.transcriber import Transcriber
from whisper_toolchain.export import export_graphs
from whisper_toolchain.host_decoder import write_host_decoder
from whisper_toolchain.model import build_model
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

# One second of window and few positions: a text is at most a few tokens long, so that a minute takes seconds.
DIMS = Dimensions(80, 50, 16, 2, 1, 51865, 448, 16, 2, 1)


class Undrafted(SlotDecoder):
    """Checks no guess: what decoding costs without drafts."""

    def room(self, prompt, text):
        return 0


@pytest.fixture(scope="module")
def toy(patched_whisper, whisper_assets, sure_checkpoint, tmp_path_factory):
    """Makes transcribers of random weights, which say something else in every window and end after some tokens."""
    checkpoint = sure_checkpoint(DIMS, 3)
    folder = tmp_path_factory.mktemp("toy")
    plan = ShapePlan("toy", "hailo8", 1, 12, DIMS)
    export_graphs(build_model(patched_whisper, checkpoint, 50), plan, folder)
    write_host_decoder(checkpoint, plan, folder)
    backend = OnnxRuntimeBackend(folder / "encoder.onnx", folder / "decoder.onnx", threads=1)
    embedding = TokenEmbedding(
        checkpoint.state["decoder.token_embedding.weight"], checkpoint.state["decoder.positional_embedding"]
    )
    tokenizer = Tokenizer.from_file(whisper_assets / "multilingual.tiktoken", DIMS.n_vocab)

    def make(decoder=SlotDecoder):
        transcriber = Transcriber.from_parts(backend, decoder(backend, embedding, 12), tokenizer, 1)
        for search in (transcriber.reader._greedy, transcriber.reader._beams):
            if search is not None:
                search._limit = 12  # random weights know no end
        return transcriber

    make.host = lambda backend, embedding, _: HostDecoder(backend, embedding, folder, threads=1)
    make.beams = functools.partial(SlotDecoder, beam_size=3)
    return make


def sound(seconds, seed=0):
    """Bursts of noise with pauses of many lengths."""
    random = np.random.default_rng(seed)
    pieces, total = [np.zeros(0)], 0
    while total < seconds * SAMPLE_RATE:
        loud, pause = random.integers(1600, 20000), random.integers(0, 24000)
        pieces += [random.normal(0, 0.1, loud), random.normal(0, 1e-4, pause)]
        total += loud + pause
    return np.concatenate(pieces)[: round(seconds * SAMPLE_RATE)].astype(np.float32)


def stream(transcriber, blocks, **options):
    streamed = StreamTranscriber(transcriber, **options)
    updates = [update for block in blocks for update in streamed.push(block)]
    return [*updates, *streamed.finish()]


def committed(updates):
    return [segment for update in updates for segment in update.committed]


def cut(samples, lengths):
    ends = [0, *itertools.accumulate(lengths), len(samples)]
    return [samples[a:b] for a, b in itertools.pairwise(min(end, len(samples)) for end in ends)]


@settings(max_examples=12, deadline=None)
@given(
    seconds=st.floats(0.0, 12.0),
    seed=st.integers(0, 5),
    lengths=st.lists(st.integers(0, 40_000), max_size=40),
    language=st.sampled_from([None, "en", "de"]),
    hop=st.sampled_from([0.25, 1.0, 3.0]),
    told=st.sampled_from([None, "I"]),
)
def test_any_chunking_commits_the_text_of_the_whole_recording(toy, seconds, seed, lengths, language, hop, told):
    samples = sound(seconds, seed)
    transcriber = toy()
    options = {"language": language, "initial_prompt": told}
    expected = list(transcriber.transcribe(samples, **options)[0]) if len(samples) else []
    updates = stream(transcriber, cut(samples, lengths), hop=hop, **options)
    assert committed(updates) == expected
    assert all(update.calls >= 0 and update.latency >= 0 for update in updates)
    assert [update.heard for update in updates] == sorted(update.heard for update in updates)


@settings(max_examples=6, deadline=None)
@given(seconds=st.floats(3.0, 12.0), seed=st.integers(0, 5), lengths=st.lists(st.integers(0, 40_000), max_size=40))
@pytest.mark.parametrize("decoder", ["host", "beams"])
def test_a_decoder_that_follows_several_texts_commits_the_same_too(toy, decoder, seconds, seed, lengths):
    samples = sound(seconds, seed)
    transcriber = toy(getattr(toy, decoder))
    expected = list(transcriber.transcribe(samples, language="en")[0])
    assert committed(stream(transcriber, cut(samples, lengths), language="en")) == expected


def test_a_recording_of_seventy_seconds_in_tiny_pieces(toy):
    samples = sound(70, seed=1)
    transcriber = toy()
    updates = stream(transcriber, cut(samples, [1234] * 1000), language="en", hop=5.0)
    assert committed(updates) == list(transcriber.transcribe(samples, language="en")[0])
    assert len(committed(updates)) > 30


def test_partial_text_is_that_of_what_is_pending_and_ends_with_its_window(toy):
    samples = sound(8, seed=2)
    updates = stream(toy(), cut(samples, [1600] * 80), language="en", hop=0.25)
    assert sum(bool(update.partial) for update in updates) > 5
    for update in updates:
        assert not (update.committed and update.partial)


def test_partial_text_goes_beyond_a_window_and_reads_only_what_has_changed(toy, monkeypatch):
    loud, soft = np.random.default_rng(7).normal(0, 0.1, (2, 12_000)).astype(np.float32)
    samples = np.concatenate([loud, np.zeros(1600, np.float32), soft])[: round(1.45 * SAMPLE_RATE)]
    transcriber, read = toy(), []
    glance = transcriber.reader.glance
    monkeypatch.setattr(
        transcriber.reader, "glance", lambda window, *rest: read.append(window) or glance(window, *rest)
    )
    streamed = StreamTranscriber(transcriber, language="en", hop=0.1)
    updates = [update for block in cut(samples, [1600] * 20) for update in streamed.push(block)]
    assert not committed(updates)  # a second window has to be there in part
    places = [(window.start, window.seconds) for window in read]
    assert len(updates) == 14
    assert len(places) == 14 + 1  # only when the second window begins there are two to read
    assert len({start for start, _ in places}) > 1
    assert max(start / SAMPLE_RATE + seconds for start, seconds in places) == pytest.approx(1.4)


def test_drafts_save_calls_and_change_nothing(toy):
    samples = sound(20, seed=3)
    blocks = cut(samples, [1600] * 200)
    drafted, plain = (stream(toy(decoder), blocks, language="en", hop=0.2) for decoder in (SlotDecoder, Undrafted))
    assert committed(drafted) == committed(plain)
    assert [update.partial for update in drafted] == [update.partial for update in plain]
    # Random weights say something else with every hop; on speech far more is saved (benchmarks/stream_calls.py).
    assert sum(update.calls for update in drafted) < sum(update.calls for update in plain)


def test_detecting_the_language_encodes_nothing_twice(toy, monkeypatch):
    samples = sound(4, seed=5)
    transcriber = toy()
    shown = []
    encode = transcriber.reader.encode
    monkeypatch.setattr(transcriber.reader, "encode", lambda *given: shown.append(given) or encode(*given))
    found, info = transcriber.transcribe(samples)
    detected = list(found)
    assert 0 < info.language_probability < 1
    looks = len(shown)
    assert list(transcriber.transcribe(samples, language=info.language)[0]) == detected
    assert len(shown) == 2 * looks


def test_what_comes_in_late_makes_one_partial_text(toy):
    (update,) = stream(toy(), [sound(0.9)], language="en", hop=0.1)[:1]
    assert update.heard == pytest.approx(0.9)


def test_silence_gives_nothing_and_costs_no_decoding(toy):
    updates = stream(toy(), [np.zeros(3 * SAMPLE_RATE, np.float32)] * 3)
    assert committed(updates) == []
    assert {(update.partial, update.calls) for update in updates} == {("", 0)}


def test_an_interrupted_commit_loses_nothing(toy, monkeypatch):
    samples = sound(6, seed=4)
    transcriber = toy()
    expected = list(transcriber.transcribe(samples, language="en")[0])
    streamed = StreamTranscriber(transcriber, language="en")
    read = transcriber.reader.read

    def interrupted(*_):
        monkeypatch.setattr(transcriber.reader, "read", read)
        raise KeyboardInterrupt

    monkeypatch.setattr(transcriber.reader, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(streamed.push(samples))
    assert committed(streamed.finish()) == expected


@pytest.mark.parametrize("bad", [np.array([0.0, np.nan], np.float32), np.zeros((2, 2), np.float32)])
def test_what_is_no_sound_is_refused(toy, bad):
    with pytest.raises(AudioError, match="stream: "):
        stream(toy(), [bad])


def test_wrong_options_are_refused_before_any_sound(toy):
    with pytest.raises(TokenizerError, match="unknown language 'xx'"):
        StreamTranscriber(toy(), language="xx")
    with pytest.raises(TokenizerError, match="the initial prompt is 3 tokens long, and there is room for 1"):
        StreamTranscriber(toy(), initial_prompt="one two three")
    with pytest.raises(ValueError, match="more than 0"):
        StreamTranscriber(toy(), hop=0.0)
    for hop in (1e-6, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="finite"):
            StreamTranscriber(toy(), hop=hop)


@pytest.mark.parametrize("decoder", ["device", "host"])
def test_a_real_recording_streams_to_its_text(tiny_en_bundle, jfk, decoder):
    with Transcriber(tiny_en_bundle.folder, decoder=decoder) as transcriber:
        samples = load_audio(jfk)
        updates = stream(transcriber, cut(samples, [4000] * 100))
        assert committed(updates) == list(transcriber.transcribe(jfk)[0])
    assert any(update.partial.startswith("And so my fellow Americans") for update in updates)


@pytest.mark.parametrize("decoder", ["device", "host"])
def test_somebody_else_who_goes_on_in_the_same_window_is_heard(tiny_en_bundle, recording, decoder):
    """The model ends its text where the first speaker stops; in the int8 of some CPUs it goes on by itself."""
    one, other = (
        load_audio(recording(name).path) for name in ("inferencebench_voice-1272-135031-0008", "pocketsphinx-goforward")
    )
    samples = np.concatenate([one, other])
    with Transcriber(tiny_en_bundle.folder, decoder=decoder) as transcriber:
        found = list(transcriber.transcribe(samples)[0])
        updates = stream(transcriber, cut(samples, [4000] * 100))
    text = " ".join(segment.text for segment in found)
    assert text.startswith("I hope")
    assert text.casefold().strip(" .").endswith("go forward 10 meters")
    if decoder == "host" or len(found) > 1:
        assert found[0].end == found[1].start == pytest.approx(len(one) / SAMPLE_RATE, abs=0.5)
    assert committed(updates) == found
    assert "forward" in updates[-2].partial
