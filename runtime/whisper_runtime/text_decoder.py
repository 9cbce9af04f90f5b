"""What predicts the next token of a window: the accelerator's fixed-shape graph, or a decoder on the host's CPU."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from whisper_runtime.backends import Features


class TextDecoder(Protocol):
    """Gives the logits of the next token. `decoding` makes text of them and does not know which decoder it has.

    Attributes:
        name: "device" or "host", for reports.
        calls: how often its graph has run for logits since the decoder was made.
    """

    name: str
    calls: int

    def begin(self, features: Features) -> None:
        """Start a window: what follows is about these features, which the backend's `encode` returned.

        Raises:
            BackendError: the device or a graph fails.
        """
        ...

    def room(self, prompt: int, text: int) -> int:
        """How many guessed tokens one call can check behind a prompt and a text of these lengths.

        A guess within that room changes no bit of any row before it.
        """
        ...

    def logits(self, prompt: Sequence[int], text: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        """Return the logits after some of the tokens of a text.

        Args:
            prompt: the sot sequence, which stays in sight however long the text gets.
            text: the tokens after it, guesses included.
            rows: ascending indices into prompt + text: after which of those tokens. None may be so far back that
                the decoder has lost it: rows of the prompt are there as long as the text is empty.

        Returns:
            (len(rows), vocab) float32, to be changed at will.

        Raises:
            BackendError: a graph fails.
            ValueError: the prompt leaves no slot for text, a row is out of sight, or a token has a position that the
                model does not know.
        """
        ...
