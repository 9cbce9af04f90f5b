"""Which tokens may come next: the rules that Whisper's own decoding applies to the logits."""

import math
from collections.abc import Sequence

import numpy as np

from whisper_runtime.tokenizer import Tokenizer

SECONDS_PER_TIMESTAMP = 0.02
# The first timestamp is at most this late: windows begin where sound does. As in openai-whisper.
_LATEST_FIRST_SECONDS = 1.0
# A phrase that ends this close to the end of the sound is the last one. Without this rule, which openai-whisper with
# its 30 s does not need, multilingual models say the last phrase again and again.
_LAST_PHRASE_SECONDS = 0.5


class TokenRules:
    """Forbids tokens, as openai-whisper does by default.

    Never: annotations and the tokens of the prompt. Not at first: a blank or the end. Timestamps: never, or by
    Whisper's rules for them: at the beginning, in pairs around each phrase, never going back, and due when together
    they are more likely than any word. And by one of our own: where the sound ends, the text does.

    Args:
        tokenizer: the model's tokenizer.
        timestamps: whether the text is to hold timestamps.

    Attributes:
        timestamps: the same.
    """

    def __init__(self, tokenizer: Tokenizer, timestamps: bool = False) -> None:
        self._eot = tokenizer.eot
        self._begin = tokenizer.timestamp_begin
        self.timestamps = timestamps
        # openai-whisper leaves the languages' tokens in; they would be text that nobody can read.
        specials = range(tokenizer.eot + 1, tokenizer.timestamp_begin)
        self._never = np.array(sorted({*tokenizer.suppress_tokens, *specials}))
        self._not_at_first = np.array(tokenizer.blank_tokens)

    def apply(self, logits: np.ndarray, text: Sequence[int], seconds: float = math.inf) -> None:
        """Set the logits of what may not follow a text to minus infinity, in place.

        Args:
            logits: (vocab,) float32.
            text: the tokens after the prompt.
            seconds: length of the window's sound.
        """
        logits[self._never] = -np.inf
        if not text:
            logits[self._not_at_first] = -np.inf
        if not self.timestamps:
            logits[self._begin :] = -np.inf
            return
        begin = self._begin
        if not text:
            logits[:begin] = -np.inf
            logits[begin + 1 + round(_LATEST_FIRST_SECONDS / SECONDS_PER_TIMESTAMP) :] = -np.inf
            return
        after_one = text[-1] >= begin
        after_two = after_one and (len(text) < 2 or text[-2] >= begin)
        if after_two:
            logits[begin:] = -np.inf
        elif after_one:
            logits[: self._eot] = -np.inf
            if (text[-1] - begin) * SECONDS_PER_TIMESTAMP >= seconds - _LAST_PHRASE_SECONDS:
                logits[self._eot + 1 :] = -np.inf
        latest = next((token for token in reversed(text) if token >= begin), None)
        if latest is not None:
            # A phrase has some length, but the next one may begin where it ends.
            logits[begin : latest if after_one and not after_two else latest + 1] = -np.inf
        best_word, best_time = logits[:begin].max(), logits[begin:].max()
        if best_time > -np.inf and best_time + np.log(np.exp(logits[begin:] - best_time).sum()) > best_word:
            logits[:begin] = -np.inf
