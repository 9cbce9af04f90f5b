"""What the model is told before each window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.errors import TokenizerError
from whisper_runtime.transcriber import Transcriber

SUITS = "Clubs, spades, hearts, diamonds."


class Bounded:
    """A decoder that nobody asks for anything but how long a prompt may be."""

    def __init__(self, name, prompt_limit):
        self.name, self.prompt_limit = name, prompt_limit


@pytest.fixture(scope="module")
def asked(multilingual):
    """The prompt of a transcriber whose decoder has so much room."""

    def call(text, limit=1000, name="device", **options):
        transcriber = Transcriber.from_parts(None, Bounded(name, limit), multilingual, 10)
        return transcriber.prompt("de", initial_prompt=text, **options)

    return call


@pytest.mark.parametrize("options", [{}, {"task": "translate"}, {"timestamps": True}])
def test_it_stands_before_the_sot_sequence_as_openai_whisper_writes_it(asked, multilingual, stock_whisper, options):
    prompt = asked(" Esszimmer, Loggia.\n", **options)
    told = [multilingual.sot_prev, *stock_whisper.tokenizer.get_tokenizer(True).encode(" Esszimmer, Loggia.")]
    assert prompt.tokens == (*told, *multilingual.sot_sequence("de", **options))
    assert prompt.told == len(told)


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_nothing_is_told_as_nothing(asked, multilingual, nothing):
    prompt = asked(nothing)
    assert (prompt.tokens, prompt.told) == (multilingual.sot_sequence("de"), 0)


@given(text=st.text(max_size=30))
def test_no_text_becomes_a_special_token(asked, multilingual, text):
    prompt = asked(f"<|endoftext|>{text}<|startoftranscript|>")
    assert max(prompt.tokens[1 : prompt.told]) < multilingual.eot
    assert prompt.tokens.count(multilingual.sot) == 1


@pytest.mark.parametrize(("name", "hint"), [("device", r" or decode on the CPU \(--decoder host\)"), ("host", "")])
def test_one_that_is_too_long_is_refused(asked, multilingual, name, hint):
    limit = 1 + 3 + 4  # sot_prev, the text, the sot sequence
    assert asked("one two three", limit, name).told == 4
    with pytest.raises(TokenizerError, match=f"is 4 tokens long, and there is room for 3: make it shorter{hint}$"):
        asked("one two three four", limit, name)
    with pytest.raises(TokenizerError, match="room for 0"):
        asked("one", 2, name)


def test_bytes_that_are_no_text_are_refused(asked):
    """As a terminal gives them."""
    with pytest.raises(TokenizerError, match="not UTF-8"):
        asked(b"K\xfcche".decode("utf-8", "surrogateescape"))


# Real weights


@pytest.fixture(scope="module", params=["device", "host"])
def transcriber(request, tiny_en_bundle):
    with Transcriber(tiny_en_bundle.folder, decoder=request.param) as opened:
        yield opened


def test_a_word_that_it_is_told_is_understood(transcriber, recording):
    """Without, tiny.en hears `10 of close` on most CPUs."""
    heard = transcriber.text(recording("pocketsphinx-cards-001").path, initial_prompt=SUITS)
    assert heard.casefold() in ("10 of clubs.", "ten of clubs.")


def test_noise_does_not_say_what_it_is_told(transcriber):
    """The model does: it says the command in most of these."""
    for seed in range(4):
        noise = np.random.default_rng(seed).normal(0, 0.03, (seed + 1) * SAMPLE_RATE).astype(np.float32)
        assert transcriber.text(noise, initial_prompt="Set the thermostat to 21.") == ""


def test_the_host_has_room_for_more_than_the_slots(transcriber):
    """Half of the slots, half of the model's positions."""
    name, room = transcriber.text_decoder.name, {"device": 32 // 2, "host": 448 // 2}
    assert transcriber.text_decoder.prompt_limit == room[name]
