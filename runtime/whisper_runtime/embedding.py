"""The part of the decoder that runs on the host: token lookup and positional addition."""

from collections.abc import Sequence

import numpy as np


class TokenEmbedding:
    """Turns tokens and their positions into the decoder's `token_embeddings` input.

    Args:
        weight: (vocab, d) float16 or float32, the checkpoint's `decoder.token_embedding.weight`. Only rows that are
            looked up are read, so a memory-mapped file costs little memory.
        positional: (448, d) float16 or float32, the checkpoint's `decoder.positional_embedding`, all rows.
    """

    def __init__(self, weight: np.ndarray, positional: np.ndarray) -> None:
        self._weight = weight
        self._positional = positional

    @property
    def positions(self) -> int:
        """How many positions the model knows (448)."""
        return int(self._positional.shape[0])

    def embed(self, tokens: Sequence[int], positions: Sequence[int], sequence: int) -> np.ndarray:
        """Embed tokens at their true positions and fill the remaining slots with zeros.

        The slots after the last token are never attended to (the decoder is causal), so what stands there
        does not matter; zeros keep quantisation ranges free of noise.

        Args:
            tokens: at most `sequence` token ids.
            positions: the position of each token in the whole text, prompt included.
            sequence: number of slots of the decoder graph.

        Returns:
            (sequence, 1, d) float32, C-contiguous: the device's layout.
        """
        count = len(tokens)
        embedded = np.zeros((sequence, 1, self._weight.shape[1]), np.float32)
        # Into float32 before the addition: a float16 sum would be rounded once more.
        embedded[:count, 0] = self._weight[list(tokens)]
        embedded[:count, 0] += self._positional[list(positions)]
        return embedded
