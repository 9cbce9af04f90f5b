"""What predicts the next token of a window: the accelerator's fixed-shape graph, or a decoder on the host's CPU."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from whisper_runtime.backends import Features


class TextDecoder(Protocol):
    """Gives the logits of the next token. `decoding` makes text of them and does not know which decoder it has.

    Attributes:
        name: "device" or "host", for reports.
        prompt_limit: tokens that a prompt should have at most, so that enough of the text stays in sight.
        calls: how often its graph has run for logits since the decoder was made.
    """

    name: str
    prompt_limit: int
    calls: int

    def begin(self, features: Features) -> None:
        """Start a window: what follows is about these features, which the backend's `encode` returned.

        Raises:
            BackendError: the device or a graph fails.
        """
        ...

    def room(self, prompt: int, text: int) -> int:
        """How many guessed tokens one call can check behind a prompt and a text of these lengths; never negative.

        A guess within that room changes no bit of any row before it.
        """
        ...

    def logits(self, prompt: Sequence[int], text: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        """Return the logits after some of the tokens of a text.

        Args:
            prompt: the sot sequence and what stands before it. It stays in sight however long the text gets.
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


@runtime_checkable
class SearchableDecoder(TextDecoder, Protocol):
    """A decoder among whose texts can be searched, under several pictures of a window.

    Attributes:
        beam_size: how many texts to follow at once; 1 to decode greedily.
        doubtful_logprob: a text with a mean log probability below this is worth a second picture.
    """

    beam_size: int
    doubtful_logprob: float

    def also(self, features: Features) -> None:
        """Take one more picture of the window that `begin` started.

        From here on log probabilities are the mean of those under each picture.

        Raises:
            BackendError: the device or a graph fails.
        """
        ...


@runtime_checkable
class BranchingDecoder(SearchableDecoder, Protocol):
    """A decoder for which several texts cost hardly more than one."""

    def branches(self, prompt: Sequence[int], texts: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Return the logits after several texts.

        Args:
            prompt: the sot sequence and what stands before it.
            texts: at least one, the tokens after the prompt. Each is one token longer than nothing, or than a text of
                an earlier call about the same pictures.

        Returns:
            (len(texts), vocab) float32, to be changed at will.

        Raises:
            BackendError: a graph fails, or no window has begun.
            ValueError: a text has no beginning, or a position that the model does not know.
        """
        ...


def mean_logits(logits: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the log probabilities under each picture, (n, vocab); under a single one, its logits."""
    if len(logits) == 1:
        return logits[0]
    total = np.zeros_like(logits[0])
    for each in logits:
        shifted = each - each.max(axis=-1, keepdims=True)
        total += shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return total / np.float32(len(logits))


def checked_beam_size(size: int) -> int:
    """Return a beam size. Raises ValueError if it is less than 1."""
    if size < 1:
        raise ValueError(f"a beam size of {size}: it must be at least 1")
    return size
