"""Greedy decoding of one window, with or without a draft; and where a text ends, however it was found.

A decoder graph gives the logits after every token of a text in one call. So a draft, a guess of the whole text, is
checked in one call: as far as it agrees, nothing more has to be computed. Each token is chosen from the same logits
by the same rule as without a draft, and so the text is the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from whisper_runtime.loops import echo_length, loop_length
from whisper_runtime.text_decoder import TextDecoder
from whisper_runtime.token_rules import TokenRules
from whisper_runtime.tokenizer import Tokenizer

# Where the sound ends in mid-word, or right at the window's end, the model often prefers a repetition to the end of
# text by a small margin. Ending there costs less than it saves, but only once there is about as much text as fits
# into so much sound: earlier it would swallow what follows a pause. Measured: FACTS section 9, and without
# the second rule tiny.en lost sentences after pauses.
EOT_MARGIN = 2.0
TOKENS_PER_SECOND = 2.0

# People say things twice, numbers above all. So a text is held to go round in circles only once there is as much of it
# as is usually said in that time; English has some 3.5 tokens a second.
LOOP_TOKENS_PER_SECOND = 3.0

# A phrase that is said again in nearly the same words is an echo only in a text that nobody speaks that fast. People
# speak 10 to 18 letters a second; tokens are of no use here, for numbers and most languages need many.
ECHO_LETTERS_PER_SECOND = 20.0

# A text that is one phrase said twice: does the sound hold it twice, or did the model read it twice? Behind the first
# round of what was said once, the end of text is about as near to the likeliest token as behind the second; of what was
# said twice, it is further off. Measured on recordings of one to four seconds, and on the same joined to twice their
# length: benchmarks/README.md.
_TWICE_LEAD = 0.7
_TWICE_MOST_LEAD = 4.0

# Tokens a window at most; Whisper's own limit, half of its positions.
TEXT_LIMIT = 224

# How far around a wrong guess the draft is searched for where it goes on.
_REALIGN = 4


class Drafter(Protocol):
    """Guesses how a text goes on."""

    def guess(self, text: Sequence[int], count: int) -> Sequence[int]:
        """Up to so many tokens that may follow a text, which begins with the text of the call before."""
        ...


class Draft:
    """A guess of a whole text. It is followed as far as it is right, and again after a fault.

    Args:
        tokens: the guess.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._at = self._known = 0

    def guess(self, text: Sequence[int], count: int) -> Sequence[int]:
        """What follows; see `Drafter`."""
        if new := len(text) - self._known:
            # All new tokens but the last were guessed.
            self._at = resume(self._tokens, self._at + new - 1, text[-1])
            self._known = len(text)
        return self._tokens[self._at : self._at + count]


@dataclass(frozen=True)
class Decoded:
    """The text of one window.

    Attributes:
        tokens: text and timestamp tokens, without prompt and end of text.
        avg_logprob: mean natural log probability of the tokens chosen, end of text included.
        no_speech_prob: how likely the model holds it that nobody speaks, 0 to 1.
        looped: whether the text went round in circles and was cut there.
    """

    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    looped: bool = False


class GreedyDecoder:
    """Decodes windows to tokens.

    Args:
        decoder: predicts the next token.
        tokenizer: the model's tokenizer.
        limit: tokens a window at most.
    """

    def __init__(self, decoder: TextDecoder, tokenizer: Tokenizer, limit: int = TEXT_LIMIT) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._limit = limit

    def decode(
        self, prompt: Sequence[int], rules: TokenRules, seconds: float, draft: Sequence[int] | Drafter = ()
    ) -> Decoded:
        """Decode the window that the decoder was given by `begin`, until the end of text, a loop or the limit.

        Args:
            prompt: the sot sequence and what stands before it; must leave at least one slot free.
            rules: what may follow what.
            seconds: length of the window's sound.
            draft: a guess of the tokens, or what makes one. The result is the same whatever it is; a good one saves
                calls.

        Raises:
            BackendError: a graph fails.
            ValueError: the prompt fills the slots.
        """
        eot = self._tokenizer.eot
        sot = prompt.index(self._tokenizer.sot)
        text: list[int] = []
        logprobs: list[float] = []
        leads: list[float] = []
        no_speech = 0.0
        drafter = Draft(draft) if isinstance(draft, Sequence | np.ndarray) else draft
        while len(text) < self._limit:
            room = min(self._decoder.room(len(prompt), len(text)), self._limit - len(text) - 1)
            checked = list(drafter.guess(text, room)) if room > 0 else []
            last = len(prompt) + len(text) - 1
            rows = list(range(last, last + len(checked) + 1))
            at_first = not text
            if at_first and sot < last:
                rows.insert(0, sot)
            logits = self._decoder.logits(prompt, [*text, *checked], rows)
            if at_first:
                no_speech = probability(logits[0], self._tokenizer.no_speech)
                logits = logits[len(rows) - len(checked) - 1 :]
            for index, row in enumerate(logits):
                token, logprob = self.choose(row, rules, text, seconds)
                logprobs.append(logprob)
                leads.append(float(row.max() - row[eot]))
                if token == eot:
                    return finished(self._tokenizer, text, logprobs, leads, no_speech, seconds)
                text.append(token)
                if repeated := loop_at_end(text, seconds):
                    del text[-repeated:]
                    return decoded(text, logprobs, no_speech, looped=True)
                if index == len(checked) or token != checked[index]:
                    break
        return decoded(text, logprobs, no_speech)

    def choose(self, logits: np.ndarray, rules: TokenRules, text: Sequence[int], seconds: float) -> tuple[int, float]:
        """The next token and its log probability, by the logits (vocab,) after a text, which are changed."""
        rules.apply(logits, text, seconds)
        token = int(logits.argmax())
        eot = self._tokenizer.eot
        if may_end(len(text), seconds) and logits[eot] >= logits[token] - EOT_MARGIN:
            token = eot
        return token, float(logits[token] - log_sum_exp(logits))


def may_end(length: int, seconds: float) -> bool:
    """Whether a text of so many tokens may end although another token is likelier, by no more than `EOT_MARGIN`."""
    return length > 0 and length >= TOKENS_PER_SECOND * seconds


def loop_at_end(text: Sequence[int], seconds: float) -> int:
    """How many tokens at the end of a text are a loop, given the length of its sound; 0 if it does not loop."""
    return loop_length(text) if len(text) >= LOOP_TOKENS_PER_SECOND * seconds else 0


def finished(
    tokenizer: Tokenizer,
    text: Sequence[int],
    logprobs: Sequence[float],
    leads: Sequence[float],
    no_speech: float,
    seconds: float,
) -> Decoded:
    """What to keep of a text that the model has ended.

    Args:
        tokenizer: the model's tokenizer.
        text: the tokens.
        logprobs: the log probability of each, and of the end.
        leads: by how much the likeliest token was above the end of text before each of them, and at the end.
        no_speech: how likely it is that nobody speaks.
        seconds: length of the window's sound.
    """
    if _is_hasty(tokenizer, text, seconds) and (echo := echo_at_end(tokenizer, text)):
        return decoded(text[:-echo], logprobs, no_speech, looped=True)
    once = _said_once(tokenizer, text, leads)
    return decoded(text[:once], logprobs[: once + 1], no_speech)


def _is_hasty(tokenizer: Tokenizer, text: Sequence[int], seconds: float) -> bool:
    """Whether nobody says so much in so many seconds."""
    return sum(map(str.isalnum, tokenizer.decode(text))) >= ECHO_LETTERS_PER_SECOND * seconds


def echo_at_end(tokenizer: Tokenizer, text: Sequence[int]) -> int:
    """How many tokens at the end of a text are the echo of what is before; 0 if none."""
    return echo_length([tokenizer.decode([token]) for token in text])


def _said_once(tokenizer: Tokenizer, text: Sequence[int], leads: Sequence[float]) -> int:
    """How much of a finished text to keep: one round, if it is a phrase twice that was said once; else all.

    Args:
        tokenizer: the model's tokenizer.
        text: the tokens.
        leads: by how much the likeliest token was above the end of text before each of them, and at the end.
    """
    for length in _doubled(text):
        further = says_words(tokenizer.decode(text[2 * length :]))
        end = min(leads[2 * length :])
        if not further and leads[length] < min(end + _TWICE_LEAD, _TWICE_MOST_LEAD):
            return length
    return len(text)


def says_words(text: str) -> bool:
    """Whether there is a word in a text. Of noise, a model at times makes a full stop or a note."""
    return any(map(str.isalnum, text))


def _doubled(text: Sequence[int]) -> Iterator[int]:
    """How long the phrases are that a text begins with twice."""
    return (length for length in range(2, len(text) // 2 + 1) if text[length : 2 * length] == text[:length])


def decoded(text: Sequence[int], logprobs: Sequence[float], no_speech: float, looped: bool = False) -> Decoded:
    """A text with the mean of its tokens' log probabilities."""
    average = float(np.mean(logprobs)) if logprobs else 0.0
    return Decoded(tuple(text), average, no_speech, looped)


def resume(draft: Sequence[int], at: int, token: int) -> int:
    """Where a draft that was at `at` goes on after `token`.

    Behind the nearest `token`, if it is near; unless that is at `at` itself, something is left out here, or was before.
    Else behind the wrong guess.
    """
    near = sorted(range(max(0, at - _REALIGN), min(len(draft), at + _REALIGN + 1)), key=lambda place: abs(place - at))
    return next((place + 1 for place in near if draft[place] == token), at + 1)


def probability(logits: np.ndarray, token: int) -> float:
    """How likely a token is, 0 to 1, by the logits (vocab,) of all."""
    return float(np.exp(logits[token] - log_sum_exp(logits)))


def log_sum_exp(logits: np.ndarray) -> float:
    """The logarithm of the sum of the exponentials of logits (vocab,), which turns them into log probabilities."""
    peak = logits.max()
    return float(peak + np.log(np.exp(logits - peak).sum()))
