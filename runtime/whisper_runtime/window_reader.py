"""Reads one window: encodes and decodes it, again where the text is doubtful, in parts where the text is too short."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.backends import Backend, Features
from whisper_runtime.beam_search import BeamDecoder
from whisper_runtime.decoding import Decoded, GreedyDecoder, echo_at_end, probability, says_words
from whisper_runtime.loops import letters
from whisper_runtime.mel import window_mel
from whisper_runtime.spoken_language import LanguageGuess
from whisper_runtime.text_decoder import BranchingDecoder, SearchableDecoder, TextDecoder
from whisper_runtime.token_rules import TokenRules
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.windows import Window, loud_seconds, split_in_two

# Where the model is in doubt it is shown the same sound again, a little later in the window and louder: that is another
# picture to the encoder. Of both texts the one that the model finds likelier is taken; a look costs an encoding and,
# with the text before for a draft, a few decoder calls. A search is made again with the mean of what is seen in both.
# Measured, see benchmarks/README.md.
DOUBTFUL_LOGPROB = -0.3


@dataclass(frozen=True)
class Look:
    """How a window is shown to the encoder.

    Attributes:
        shift: seconds of silence before the sound.
        gain: factor of the samples.
    """

    shift: float
    gain: float = 1.0


LOOKS = (Look(0.0), Look(0.15, 2.5))

# What the model reads into the noise of a room: it does not believe in that text, and hears no speech or does not
# believe in it at all. openai-whisper has 0.6 and -1.0; in the pauses of a noisy recording tiny had texts with 0.57 and
# -0.99, and others with 0.12 and -2.0. Of doubtful speech it had 0.40 and -0.83 at worst.
_NO_SPEECH_PROB = 0.4
_NO_SPEECH_LOGPROB = -0.9
_LEAST_LOGPROB = -1.7

# Text that compresses this well repeats itself. As in openai-whisper.
_MOST_COMPRESSION = 2.4

# At a pause, above all if somebody else goes on, the model often ends the text and leaves out the rest. Such a text is
# too short for its sound: people say 14 to 25 bytes of UTF-8 in a second that is not quiet. Then the window is read in
# two parts as well, which are taken if they say notably more. A part that the model hardly believes in does not count:
# it makes up a word for a second of any sound. Measured, see benchmarks/README.md.
_LEAST_BYTES_PER_SECOND = 14.0
_BYTES_OF_DIGIT = 5  # with the blank behind it: a digit is a word
_NOTABLY_MORE = 1.1
_BELIEVED_LOGPROB = -0.7


@dataclass(frozen=True)
class Prompt:
    """What a text is asked for with: the sot sequence, what the model is told before it, and the rules that go with it.

    Attributes:
        tokens: all tokens before the text.
        rules: which tokens may follow.
        told: how many of the tokens stand before the sot sequence.
    """

    tokens: tuple[int, ...]
    rules: TokenRules
    told: int = 0


@dataclass(frozen=True)
class Reading:
    """What was read in a window, or in a part of one.

    Attributes:
        window: the sound.
        decoded: the text.
        shift: seconds of silence before the sound when it was decoded; its timestamps are that much late.
    """

    window: Window
    decoded: Decoded
    shift: float = 0.0


_Read = Callable[[Window, Features, Prompt, Sequence[int]], Reading]


class WindowReader:
    """Turns windows into tokens.

    Args:
        backend: runs the encoder.
        decoder: predicts the next token.
        tokenizer: the model's tokenizer.
        seconds: the longest window that the backend encodes.
    """

    def __init__(self, backend: Backend, decoder: TextDecoder, tokenizer: Tokenizer, seconds: int) -> None:
        self._backend = backend
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._seconds = seconds
        self._greedy = GreedyDecoder(decoder, tokenizer)
        self._beams = None
        if isinstance(decoder, SearchableDecoder) and decoder.beam_size > 1:
            self._beams = BeamDecoder(decoder, tokenizer, decoder.beam_size)

    @property
    def lookahead(self) -> int:
        """How many windows may be encoded ahead of the one that is read."""
        return self._backend.lookahead

    def encode(self, window: Window, look: Look = LOOKS[0]) -> Features:
        """Start encoding a window, shifted as far as there is room. Raises BackendError."""
        silence = np.zeros(round(self._shift(window, look) * SAMPLE_RATE), np.float32)
        shown = np.concatenate((silence, window.samples * np.float32(look.gain)))
        return self._backend.encode(np.ascontiguousarray(window_mel(shown, self._seconds).T[None]))

    def detect_language(self, features: Features) -> LanguageGuess:
        """The most likely of the languages that a multilingual model knows, and whether anybody speaks.

        Raises:
            BackendError: a graph fails.
        """
        self._decoder.begin(features)
        logits = self._decoder.logits([self._tokenizer.sot], [], [0])[0]
        no_speech = probability(logits, self._tokenizer.no_speech)
        languages = self._tokenizer.languages
        logits = logits[[self._tokenizer.language_token(code) for code in languages]]
        odds = np.exp(logits - logits.max())
        best = int(odds.argmax())
        return LanguageGuess(languages[best], float(odds[best] / odds.sum()), no_speech)

    def glance(self, window: Window, features: Features, prompt: Prompt, draft: Sequence[int] = ()) -> list[Reading]:
        """Decode an encoded window, or each of its parts, once.

        The draft, a guess of the tokens, only saves calls. Raises BackendError.
        """
        read = partial(self._told_if_likelier, self._decode_once)
        return self._in_parts(read, read(window, features, prompt, draft), prompt, draft)

    def read(self, window: Window, features: Features, prompt: Prompt, draft: Sequence[int] = ()) -> list[Reading]:
        """Decode an encoded window, or each of its parts, and look again while the text is doubtful.

        The draft only saves calls, if the decoder has a use for it. Raises BackendError.
        """
        read = partial(
            self._told_if_likelier, self._look_again if self._beams is None else partial(self._search, self._beams)
        )
        return self._in_parts(read, read(window, features, prompt, draft), prompt, draft)

    def _told_if_likelier(
        self, read: _Read, window: Window, features: Features, prompt: Prompt, draft: Sequence[int]
    ) -> Reading:
        """Read; if the model is to be told something, without that first, and keep what it finds likelier.

        In noise a model says what it is told, and of speech it may leave out the beginning or the end.
        """
        if not prompt.told:
            return read(window, features, prompt, draft)
        untold = read(window, features, Prompt(prompt.tokens[prompt.told :], prompt.rules), draft)
        if not self._says_something(untold.decoded):
            return untold
        told = read(window, features, prompt, untold.decoded.tokens)
        if not self._says_something(told.decoded) or self._says_again(untold.decoded, told.decoded):
            return untold
        return max(told, untold, key=self._worth)

    def _in_parts(
        self,
        read: _Read,
        whole: Reading,
        prompt: Prompt,
        draft: Sequence[int],
    ) -> list[Reading]:
        """What was read in a window if that is enough; else what is read in its parts, if that is notably more."""
        said = self._length(whole)
        if hears_nothing(whole.decoded) or said >= _LEAST_BYTES_PER_SECOND * loud_seconds(whole.window):
            return [whole]
        halves = split_in_two(whole.window)
        if halves is None:
            return [whole]
        first = read(halves[0], self.encode(halves[0]), prompt, whole.decoded.tokens)
        rest = draft[len(first.decoded.tokens) :]
        second = read(halves[1], self.encode(halves[1]), prompt, rest)
        believed = [part for part in (first, second) if part.decoded.avg_logprob >= _BELIEVED_LOGPROB]
        if sum(map(self._length, believed)) <= _NOTABLY_MORE * said:
            return [whole]
        return [*self._in_parts(read, first, prompt, draft), *self._in_parts(read, second, prompt, rest)]

    def _length(self, reading: Reading) -> int:
        """How long it takes to say a text, in bytes of UTF-8; what it says again at its end does not count."""
        tokens = reading.decoded.tokens
        once = tokens[: len(tokens) - echo_at_end(self._tokenizer, tokens)]
        text = self._tokenizer.decode(once).strip()
        return len(text.encode()) + (_BYTES_OF_DIGIT - 1) * sum(map(str.isdigit, text))

    def _decode_once(self, window: Window, features: Features, prompt: Prompt, draft: Sequence[int]) -> Reading:
        self._decoder.begin(features)
        return Reading(window, self._greedy.decode(prompt.tokens, prompt.rules, window.seconds, draft))

    def _look_again(self, window: Window, features: Features, prompt: Prompt, draft: Sequence[int]) -> Reading:
        best = self._decode_once(window, features, prompt, draft)
        for look in LOOKS[1:]:
            # In noise, the likeliest of several inventions would be more convincing than the first.
            if self._is_sure(best.decoded, DOUBTFUL_LOGPROB) or hears_nothing(best.decoded):
                break
            looked = self._decode_once(window, self.encode(window, look), prompt, best.decoded.tokens)
            looked = replace(looked, shift=self._shift(window, look))
            if not self._says_again(best.decoded, looked.decoded):
                best = looked if self._says_again(looked.decoded, best.decoded) else max(best, looked, key=self._worth)
        return best

    def _search(
        self, beams: BeamDecoder, window: Window, features: Features, prompt: Prompt, draft: Sequence[int]
    ) -> Reading:
        """Follow several texts, or decode greedily first if each costs a call; in doubt, several under two pictures."""
        if isinstance(beams.decoder, BranchingDecoder):
            beams.decoder.begin(features)
            first = beams.decode(prompt.tokens, prompt.rules, window.seconds)
        else:
            first = self._decode_once(window, features, prompt, draft).decoded
        if self._is_sure(first, beams.decoder.doubtful_logprob) or hears_nothing(first):
            return Reading(window, first)
        # Both pictures must give a token the same meaning, a time included.
        look = replace(LOOKS[1], shift=0.0) if prompt.rules.timestamps else LOOKS[1]
        beams.decoder.also(self.encode(window, look))
        both = beams.decode(prompt.tokens, prompt.rules, window.seconds, first.tokens)
        worse = hears_nothing(both) or (self._repeats(both) and not self._repeats(first))
        return Reading(window, first if worse or self._says_again(first, both) else both)

    def _shift(self, window: Window, look: Look) -> float:
        return min(look.shift, (self._seconds * SAMPLE_RATE - len(window.samples)) / SAMPLE_RATE)

    def _worth(self, reading: Reading) -> tuple[bool, float]:
        return not self._repeats(reading.decoded), reading.decoded.avg_logprob

    def _says_again(self, once: Decoded, again: Decoded) -> bool:
        """Whether one text is the other one over and over. A model likes what it says again better each time."""
        short, long = (letters(self._tokenizer.decode(each.tokens)) for each in (once, again))
        rounds = len(long) // max(1, len(short))
        return rounds > 1 and short * rounds == long

    def _says_something(self, decoded: Decoded) -> bool:
        return not hears_nothing(decoded) and says_words(self._tokenizer.decode(decoded.tokens))

    def _is_sure(self, decoded: Decoded, least: float) -> bool:
        return decoded.avg_logprob >= least and not self._repeats(decoded)

    def _repeats(self, decoded: Decoded) -> bool:
        text = self._tokenizer.decode(decoded.tokens).encode()
        return decoded.looped or len(text) > _MOST_COMPRESSION * len(zlib.compress(text))


def hears_nothing(decoded: Decoded) -> bool:
    """Whether what was read is no speech but what a model makes of noise."""
    believed = _NO_SPEECH_LOGPROB if decoded.no_speech_prob > _NO_SPEECH_PROB else _LEAST_LOGPROB
    return decoded.avg_logprob < believed
