"""The first window that leaves little doubt settles the language of a recording, in files and streams alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.decoding import Decoded
from whisper_runtime.spoken_language import LanguageGuess, SpokenLanguage
from whisper_runtime.streaming import StreamTranscriber
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.transcriber import Transcriber
from whisper_runtime.window_reader import Reading

NOISE, MUMBLED, GERMAN, FRENCH = (
    LanguageGuess("cy", 0.9, 0.8),
    LanguageGuess("nl", 0.4, 0.0),
    LanguageGuess("de", 0.9, 0.1),
    LanguageGuess("fr", 1.0, 0.0),
)


def test_what_is_sure_settles_it():
    assert [guess.is_sure for guess in (NOISE, MUMBLED, GERMAN, FRENCH)] == [False, False, True, True]
    spoken = SpokenLanguage(lambda guess: guess)
    assert spoken.settle(NOISE) == NOISE
    assert not spoken.is_settled
    assert spoken.settle(GERMAN) == GERMAN
    assert spoken.is_settled
    assert spoken.settle(FRENCH) == spoken.guess(FRENCH) == GERMAN


def test_a_guess_settles_nothing():
    spoken = SpokenLanguage(lambda guess: guess)
    assert spoken.guess(GERMAN) == GERMAN
    assert spoken.guess(FRENCH) == FRENCH


def test_a_known_language_is_not_detected():
    assert SpokenLanguage(None, "en").settle(None).code == "en"


@dataclass
class Polyglot:
    """A reader of windows each in its own language. It reads the name of the language that it is asked for."""

    tokenizer: Tokenizer
    languages: Sequence[LanguageGuess]
    lookahead: int = 0

    def encode(self, window):
        return round(window.start / SAMPLE_RATE / 3)

    def detect_language(self, features):
        return self.languages[features]

    def read(self, window, features, prompt, draft=()):
        code = next(code for code in self.tokenizer.languages if self.tokenizer.language_token(code) in prompt.tokens)
        return [Reading(window, Decoded(tuple(self.tokenizer.encode(code)), 0.0, 0.0))]

    glance = read


@pytest.fixture
def transcriber(whisper_assets):
    tokenizer = Tokenizer.from_file(whisper_assets / "multilingual.tiktoken", 51865)

    def make(*languages):
        made = Transcriber.from_parts(None, SimpleNamespace(calls=0), tokenizer, 1)
        made.reader = Polyglot(tokenizer, languages)
        return made

    return make


def sound(words):
    """Noise for half a second at the beginning of every third second: a window for each."""
    loud = (np.arange(3 * words * SAMPLE_RATE) / SAMPLE_RATE) % 3.0 < 0.5
    return (np.random.default_rng(0).normal(0, 0.1, len(loud)) * loud).astype(np.float32)


@pytest.mark.parametrize(
    ("languages", "read", "found"),
    [
        ((GERMAN, FRENCH, FRENCH), ["de", "de", "de"], GERMAN),
        ((NOISE, GERMAN, FRENCH), ["cy", "de", "de"], GERMAN),
        ((MUMBLED, NOISE, FRENCH), ["nl", "cy", "fr"], FRENCH),
        ((MUMBLED, NOISE, NOISE), ["nl", "cy", "cy"], MUMBLED),
    ],
)
def test_files_and_streams_settle_it_alike(transcriber, languages, read, found):
    samples = sound(len(languages))
    segments, info = transcriber(*languages).transcribe(samples)
    assert (info.language, info.language_probability) == (languages[0].code, languages[0].probability)
    segments = list(segments)
    assert [segment.text for segment in segments] == read
    assert (info.language, info.language_probability) == (found.code, found.probability)
    stream = StreamTranscriber(transcriber(*languages), hop=0.1)
    updates = [update for block in np.array_split(samples, 37) for update in stream.push(block)]
    updates += stream.finish()
    assert [segment for update in updates for segment in update.committed] == segments


def test_a_language_that_is_given_is_kept(transcriber):
    segments, info = transcriber(NOISE, GERMAN).transcribe(sound(2), language="fr")
    assert [segment.text for segment in segments] == ["fr", "fr"]
    assert (info.language, info.language_probability) == ("fr", 1.0)
