"""Scripts for decoders that say what they are told: a script makes of a text the logits after it that are not zero."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from whisper_runtime.tokenizer import Tokenizer

VOCABULARY = 51864  # of the English tokenizer; the multilingual one has a token more
WORDS = range(5900, 6100)  # of them none is suppressed
ENDLESS = 10_000.0  # seconds of sound that no text fills, so that the margin does not matter

Script = Callable[[Sequence[int] | None], dict[int, float]]


def babble(tokenizer: Tokenizer, seed: int, spread: int, words: int, timestamps: bool, lowest: float = 0.0) -> Script:
    """A script of random sentences; each word follows from the text before it, some repeat.

    Args:
        tokenizer: whose end of text and timestamps it uses.
        seed: other sentences for another.
        spread: of how many tokens before it a word depends; with 0 it is the same word for ever.
        words: how many different ones.
        timestamps: whether some are said.
        lowest: the end of text's lowest logit; all others are above it by as much as ever.
    """

    def script(said: Sequence[int] | None) -> dict[int, float]:
        seen = np.array(said[-spread:] if said and spread else [], np.int64)
        random = np.random.default_rng([seed, zlib.crc32(seen.tobytes())])
        choice = random.choice(WORDS[:words], 3)
        logits = dict(zip(choice.tolist(), (lowest + random.uniform(5, 12, 3)).tolist(), strict=True))
        logits[tokenizer.eot] = lowest + float(random.uniform(0, 7))
        if timestamps and random.random() < 0.4:
            logits[tokenizer.timestamp_begin + int(random.integers(0, 500))] = lowest + 13.0
        return logits

    return script
