"""Beam search over the text of one window: several texts are followed at once, and the likeliest is taken.

Where greedy decoding has to go on behind one wrong token, the right one is still in another beam.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from whisper_runtime.decoding import (
    EOT_MARGIN,
    TEXT_LIMIT,
    Decoded,
    decoded,
    finished,
    log_sum_exp,
    loop_at_end,
    may_end,
    probability,
)
from whisper_runtime.drafted_branches import DraftedBranches
from whisper_runtime.text_decoder import BranchingDecoder, SearchableDecoder
from whisper_runtime.token_rules import TokenRules
from whisper_runtime.tokenizer import Tokenizer

# A token that is less likely than the likeliest by this much, in natural log probability, is no alternative.
_LEAST_BEHIND = 3.0

# Nor is a text that is so much less likely, as a whole, than one that has ended.
_HOPELESS = 5.0


@dataclass(frozen=True)
class _Beam:
    """A text with the log probability of each token, and the lead of the likeliest token over the end before each."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    leads: tuple[float, ...] = ()
    rank: float = 0.0

    def grown(self, token: int, logprob: float, lead: float, rank: float) -> "_Beam":
        return _Beam((*self.tokens, token), (*self.logprobs, logprob), (*self.leads, lead), rank)


class BeamDecoder:
    """Decodes windows to tokens, by the rules of `GreedyDecoder`.

    Args:
        decoder: predicts the next token. One that is no `BranchingDecoder` is asked for each text alone.
        tokenizer: the model's tokenizer.
        size: texts that are followed at once, at least 1.
        limit: tokens a window at most.

    Attributes:
        decoder: the same.
    """

    def __init__(self, decoder: SearchableDecoder, tokenizer: Tokenizer, size: int, limit: int = TEXT_LIMIT) -> None:
        self.decoder = decoder
        self._tokenizer = tokenizer
        self._size = size
        self._limit = limit

    def decode(self, prompt: Sequence[int], rules: TokenRules, seconds: float, draft: Sequence[int] = ()) -> Decoded:
        """Decode the window that the decoder was given by `begin`.

        Searches until as many texts have ended as there are beams, or until no other has a chance. Returns the one
        whose mean log probability is highest; one that goes round in circles only if all that have ended do. Those
        count as well: what is found after them is mostly the same loop with another word in it (base, test-other:
        13.4 % word errors instead of 12.1 %).

        Args:
            prompt: the sot sequence and what stands before it.
            rules: what may follow what.
            seconds: length of the window's sound.
            draft: a guess of the tokens. The result is the same whatever it is; a good one saves calls, unless the
                decoder is a `BranchingDecoder`, which has no use for it.

        Raises:
            BackendError: a graph fails.
        """
        last = len(prompt) - 1
        logits = self.decoder.logits(prompt, [], sorted({prompt.index(self._tokenizer.sot), last}))
        no_speech = probability(logits[0], self._tokenizer.no_speech)
        branches: Callable[[Sequence[tuple[int, ...]]], np.ndarray]
        if isinstance(self.decoder, BranchingDecoder):
            branches = partial(self.decoder.branches, prompt)
        else:
            branches = DraftedBranches(self.decoder, prompt, draft).logits
        beams, logits = [_Beam()], logits[-1:]
        ended: list[Decoded] = []
        least = -math.inf  # rank of a text that is worth following
        while True:
            grown = [
                further
                for beam, row in zip(beams, logits, strict=True)
                for further in self._grow(beam, row, rules, seconds)
            ]
            beams = []
            for beam in sorted(grown, key=lambda each: -each.rank):
                if beam.rank < least:
                    break
                *text, token = beam.tokens
                if token == self._tokenizer.eot:
                    least = max(least, beam.rank - _HOPELESS)
                    ended.append(finished(self._tokenizer, text, beam.logprobs, beam.leads, no_speech, seconds))
                elif repeated := loop_at_end(beam.tokens, seconds):
                    ended.append(decoded(beam.tokens[:-repeated], beam.logprobs, no_speech, looped=True))
                else:
                    beams.append(beam)
                if len(beams) == self._size:
                    break
            if not beams or len(ended) >= self._size:
                break
            if len(beams[0].tokens) == self._limit:
                # The mean of a text without end is the better the longer it gets.
                if all(each.looped for each in ended):
                    ended += [decoded(beam.tokens, beam.logprobs, no_speech) for beam in beams]
                break
            logits = branches([beam.tokens for beam in beams])
        return max(ended, key=lambda each: (not each.looped, each.avg_logprob))

    def _grow(self, beam: _Beam, logits: np.ndarray, rules: TokenRules, seconds: float) -> list[_Beam]:
        """A text with each of the tokens that may well follow, by the logits (vocab,), which are changed."""
        rules.apply(logits, beam.tokens, seconds)
        eot = self._tokenizer.eot
        best, total = float(logits.max()), log_sum_exp(logits)
        lead = best - float(logits[eot])
        if may_end(len(beam.tokens), seconds) and lead <= EOT_MARGIN:
            # Taken as if it were the likeliest.
            return [beam.grown(eot, best - lead - total, lead, beam.rank + best - total)]
        # Written so that NaN passes: what a broken graph gives must not leave an empty list.
        tokens = np.flatnonzero(~(logits < best - _LEAST_BEHIND))
        # One more than there are beams, for one may be the end.
        tokens = tokens[np.argsort(-logits[tokens], kind="stable")[: self._size + 1]]
        logprobs = [float(logits[token]) - total for token in tokens]
        return [
            beam.grown(int(token), logprob, lead, beam.rank + logprob)
            for token, logprob in zip(tokens, logprobs, strict=True)
        ]
