"""When words are said."""

import difflib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.errors import BackendError
from whisper_runtime.transcriber import Transcriber
from whisper_runtime.word_times import WordTimer, _sounding, cheapest_way, split_words, token_frames
from whisper_toolchain.model import alignment_heads, build_model

costs = arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-9, 9))


# The way through the frames


def cheapest(costs):
    """What the cheapest way costs, cell by cell."""
    rows, columns = costs.shape
    total = np.zeros((rows, columns))
    for row, column in itertools.product(range(rows), range(columns)):
        before = [0.0] if row == 0 else [total[row - 1, column]]
        if row and column:
            before.append(total[row - 1, column - 1])
        if column:
            before.append(total[row, column - 1])
        total[row, column] = costs[row, column] + min(before)
    return total[-1, -1]


@given(costs)
def test_the_way_is_the_cheapest_there_is(costs):
    begins = cheapest_way(costs)
    rows = len(costs)
    assert len(begins) == rows
    spent = 0.0
    for row in range(rows - 1):
        # It leaves a row straight down, or down and on.
        ends = [end for end in (begins[row + 1] - 1, begins[row + 1]) if end >= begins[row]]
        spent += min(costs[row, begins[row] : end + 1].sum() for end in ends)
    spent += costs[-1, begins[-1] :].sum()
    assert spent == pytest.approx(cheapest(costs))


def test_tokens_are_where_they_are_looked_for():
    """Ten frames each, and a place that every token looks at."""
    scores = np.zeros((3, 5, 60), np.float32)
    for token in range(5):
        scores[:, token, 5 + 10 * token : 15 + 10 * token] = 6.0
    scores[:, :, 58] = 9.0
    assert np.abs(token_frames(scores) - [5, 15, 25, 35, 45]).max() <= 1


@given(
    arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.floats(-50, 50, width=32)
    )
)
def test_any_scores_give_frames_in_order(scores):
    found = token_frames(scores)
    assert found.tolist() == sorted(found.tolist())
    assert 0 <= found[0] <= found[-1] < scores.shape[-1]


# Words


PIECES = [" don", "'t", " -", ",", " $5", "日本", " ", "é", " ü"]


@given(
    text=st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES)).map("".join)),
    spaced=st.booleans(),
)
def test_words_are_all_of_the_text_in_order(multilingual, text, spaced):
    tokens = multilingual.encode(text)
    words = list(split_words(multilingual, tokens, spaced))
    assert [token for word in words for token in word] == tokens
    assert all(words)
    if tokens:
        assert "".join(map(multilingual.decode, words)) == text
    # Only where there is no word at all is there one without a letter or digit.
    assert len(words) <= 1 or all(any(map(str.isalnum, multilingual.decode(word))) for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" Mr. O'Neil isn't ill-disposed.", [" Mr.", " O'Neil", " isn't", " ill-disposed."]),
        (" It costs $5,000 - at least.", [" It", " costs", " $5,000 -", " at", " least."]),
        (" - Hello you", [" - Hello", " you"]),
        (" Größe, Übermut 🎤 und", [" Größe,", " Übermut 🎤", " und"]),
        ("...", ["..."]),
    ],
)
def test_words_stand_between_spaces(multilingual, text, words):
    assert [multilingual.decode(word) for word in split_words(multilingual, multilingual.encode(text))] == words


def test_where_there_are_no_spaces_each_sign_is_a_word(multilingual):
    words = [
        multilingual.decode(word) for word in split_words(multilingual, multilingual.encode("我很好、鬱。"), False)
    ]
    assert words == ["我", "很好、", "鬱。"]


def test_a_broken_character_does_not_swallow_what_follows(multilingual):
    (broken, *_) = multilingual.encode("鬱")
    tokens = [*multilingual.encode(" Hello there"), broken, *multilingual.encode(" my friend, how are you")]
    words = list(split_words(multilingual, tokens))
    assert [token for word in words for token in word] == tokens
    assert [multilingual.decode(word) for word in words][-3:] == [" how", " are", " you"]


def test_a_word_is_where_it_is_heard():
    loud = np.zeros(300, bool)
    loud[20:60] = loud[62:70] = loud[110:120] = True
    assert _sounding(loud, 0, 300) == (20, 70)  # not behind the pause
    assert _sounding(loud, 50, 65) == (50, 65)
    assert _sounding(loud, 200, 250) == (200, 250)


# Real weights


@pytest.fixture(scope="module", params=["device", "host"])
def transcriber(request, tiny_en_bundle):
    with Transcriber(tiny_en_bundle.folder, decoder=request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def stock_words(stock_whisper, tiny_en_checkpoint, jfk):
    """openai-whisper's words of jfk, with their starts and ends."""
    model = build_model(stock_whisper, tiny_en_checkpoint, 1500)
    model.set_alignment_heads(stock_whisper._ALIGNMENT_HEADS["tiny.en"])
    result = stock_whisper.transcribe(model, load_audio(jfk), temperature=0.0, word_timestamps=True, fp16=False)
    return [word for segment in result["segments"] for word in segment["words"]]


def test_the_heads_are_those_of_openai_whisper(stock_whisper, tiny_en_checkpoint):
    model = build_model(stock_whisper, tiny_en_checkpoint, 1500)
    model.set_alignment_heads(stock_whisper._ALIGNMENT_HEADS["tiny.en"])
    expected = [tuple(head) for head in model.alignment_heads.indices().T.tolist()]
    assert alignment_heads(stock_whisper, tiny_en_checkpoint) == sorted(expected)


def small(word):
    return word.strip(" ,.").lower()


def test_words_are_said_when_openai_whisper_says(transcriber, jfk, stock_words):
    segments = list(transcriber.transcribe(jfk, word_timestamps=True)[0])
    words = [word for segment in segments for word in segment.words]
    texts = [[small(word.word) for word in words], [small(word["word"]) for word in stock_words]]
    blocks = difflib.SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks()
    pairs = [(words[b.a + place], stock_words[b.b + place]) for b in blocks for place in range(b.size)]
    assert len(pairs) >= 18  # of 22
    apart = np.array([abs(ours.start - theirs["start"]) for ours, theirs in pairs])
    assert np.median(apart) <= 0.05
    assert np.mean(apart <= 0.25) >= 0.8
    assert all(0.0 < word.probability <= 1.0 for word in words)


@pytest.mark.parametrize("timestamps", [False, True])
def test_words_make_up_their_segment(transcriber, jfk, timestamps):
    plain = list(transcriber.transcribe(jfk, timestamps=timestamps)[0])
    segments = list(transcriber.transcribe(jfk, timestamps=timestamps, word_timestamps=True)[0])
    assert [segment.text for segment in segments] == [segment.text for segment in plain]
    assert all(segment.words is None for segment in plain)
    last = 0.0
    for segment in segments:
        assert "".join(word.word for word in segment.words).strip() == segment.text
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)
        for word in segment.words:
            assert last <= word.start < word.end <= 11.0
            last = word.end


def test_words_of_later_windows_are_later(transcriber, recording):
    """Two recordings with silence between them, in which there is no word."""
    one, other = (load_audio(recording(name).path) for name in ("spk1-snt1", "spk1-snt5"))
    audio = np.concatenate((one, np.zeros(12 * SAMPLE_RATE, np.float32), other))
    first, second = transcriber.transcribe(audio, word_timestamps=True)[0]
    assert first.words[-1].end <= len(one) / SAMPLE_RATE
    assert second.words[0].start >= len(one) / SAMPLE_RATE + 12
    assert " ".join(small(word.word) for word in second.words) == "sunday is the best part of the week"


def test_a_bundle_from_before_there_were_times_is_refused(transcriber, monkeypatch):
    monkeypatch.setattr(transcriber._word_timer._decoder, "aligns", False)
    decoder = transcriber._word_timer._decoder
    with pytest.raises(BackendError, match="build it again"):
        WordTimer(transcriber.reader.encode, decoder, transcriber.tokenizer)


def test_without_the_decoder_for_the_cpu_there_are_none(tiny_en_bundle, jfk):
    with Transcriber(tiny_en_bundle.folder) as whole:
        parts = Transcriber.from_parts(whole._backend, whole.text_decoder, whole.tokenizer, whole.seconds)
        with pytest.raises(BackendError, match="the decoder for the CPU"):
            parts.transcribe(jfk, word_timestamps=True)
