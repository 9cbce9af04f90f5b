"""Several texts from a decoder that is asked for one text at a time, in few calls.

One call gives the logits after every token of a text. So each text is asked for together with a guess of how it goes
on, and what comes back for the guess is kept: a search that follows it needs no further call. The guess is the draft,
found again behind a text that has left it. No guess changes a row, so a search finds what it would find without one.
"""

from collections.abc import Sequence

import numpy as np

from whisper_runtime.decoding import resume
from whisper_runtime.text_decoder import TextDecoder

_Text = tuple[int, ...]


class DraftedBranches:
    """Gives the logits after several texts about one window.

    Args:
        decoder: is asked for them; has begun the window.
        prompt: the sot sequence and what stands before it.
        draft: a guess of the text's tokens, which only saves calls.
    """

    def __init__(self, decoder: TextDecoder, prompt: Sequence[int], draft: Sequence[int]) -> None:
        self._decoder = decoder
        self._prompt = prompt
        self._draft = draft
        self._places: dict[_Text, int] = {(): 0}  # where in the draft each text goes on
        self._rows: dict[_Text, np.ndarray] = {}  # the logits after each text

    def logits(self, texts: Sequence[_Text]) -> np.ndarray:
        """Return the logits after several texts, (len(texts), vocab) float32, to be changed at will.

        Args:
            texts: at least one. Each is one token longer than nothing, or than a text of an earlier call.

        Raises:
            BackendError: a graph fails.
            ValueError: a text has no beginning, or a position that the model does not know.
        """
        # A search that has left a text does not come back to it, and a row is as long as the vocabulary.
        self._rows = {known: row for known, row in self._rows.items() if any(known[: len(t)] == t for t in texts)}
        return np.stack([self._after(text) for text in texts])

    def _after(self, text: _Text) -> np.ndarray:
        if text[:-1] not in self._places:
            raise ValueError("a text that is more than a token longer than any before")
        self._places[text] = at = resume(self._draft, self._places[text[:-1]], text[-1])
        if text not in self._rows:
            guess = tuple(self._draft[at : at + self._decoder.room(len(self._prompt), len(text))])
            last = len(self._prompt) + len(text) - 1
            rows = self._decoder.logits(self._prompt, [*text, *guess], range(last, last + len(guess) + 1))
            # Copied, or one row that is kept would keep them all.
            self._rows |= {(*text, *guess[:count]): row.copy() for count, row in enumerate(rows)}
        return self._rows[text]
