"""Greedy decoding on a decoder graph of a fixed number of slots and no cache.

The decoder sees every token of the text again at each call. Its slots limit the graph, not the text: the host
adds the positional embeddings, so once the slots are full it feeds the prompt and the latest tokens at their
true positions (the decoder is causal and asks for nothing else).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whisper_runtime.backends import Backend
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.tokenizer import Tokenizer

# Where audio ends in mid-word the model often prefers a repetition to the end of text by a small margin.
# Ending there costs less than it saves (measured: FACTS section 9).
EOT_MARGIN = 2.0

# A phrase that follows itself is a loop. Short ones occur in speech ("no, no, no"), so they need more rounds.
MAX_LOOP = 40
LONG_PHRASE = 6
SHORT_PHRASE_ROUNDS = 4


@dataclass(frozen=True)
class Decoded:
    """The text of one window.

    Attributes:
        tokens: text tokens, without prompt and end of text.
        avg_logprob: mean natural log probability of the tokens chosen, end of text included; 0 if none.
        calls: how often the decoder graph ran.
    """

    tokens: tuple[int, ...]
    avg_logprob: float
    calls: int


class GreedyDecoder:
    """Decodes a window's features to tokens.

    Args:
        backend: runs the decoder graph.
        embedding: the host's embeddings.
        tokenizer: for the end token and the tokens that Whisper suppresses.
        sequence: number of slots of the decoder graph.
    """

    def __init__(self, backend: Backend, embedding: TokenEmbedding, tokenizer: Tokenizer, sequence: int) -> None:
        self._backend = backend
        self._embedding = embedding
        self._sequence = sequence
        self._eot = tokenizer.eot
        self._suppressed = np.array(
            # Timestamps are suppressed as a block: the prompt asks for text without them.
            sorted({*tokenizer.suppress_tokens, *range(tokenizer.timestamp_begin, tokenizer.n_vocab)})
        )
        self._blank = np.array(tokenizer.blank_tokens)

    def decode(self, features: np.ndarray, prompt: Sequence[int]) -> Decoded:
        """Decode one window until the end of text, a loop, or half the model's context.

        Args:
            features: what the backend's `encode` returned.
            prompt: the sot sequence; must leave at least one slot free.

        Raises:
            BackendError: the decoder graph fails.
            ValueError: the prompt fills the slots.
        """
        if len(prompt) >= self._sequence:
            raise ValueError(f"a prompt of {len(prompt)} leaves none of the {self._sequence} slots for text")
        tokens: list[int] = []
        logprobs: list[float] = []
        limit = self._embedding.positions // 2  # Whisper's own sample_len
        while len(tokens) < limit:
            ids, positions = fill_slots(prompt, tokens, self._sequence)
            embedded = self._embedding.embed(ids, positions, self._sequence)
            logits = self._backend.decode(features, embedded, [len(ids) - 1])[0].astype(np.float64)
            logits[self._suppressed] = -np.inf
            if not tokens:
                logits[self._blank] = -np.inf
            token = int(logits.argmax())
            if tokens and logits[self._eot] >= logits[token] - EOT_MARGIN:
                token = self._eot
            peak = logits.max()
            logprobs.append(float(logits[token] - peak - np.log(np.exp(logits - peak).sum())))
            if token == self._eot:
                break
            tokens.append(token)
            if repeated := loop_length(tokens):
                del tokens[-repeated:]
                break
        average = float(np.mean(logprobs)) if logprobs else 0.0
        return Decoded(tuple(tokens), average, len(logprobs))


def fill_slots(prompt: Sequence[int], tokens: Sequence[int], sequence: int) -> tuple[list[int], list[int]]:
    """Choose the tokens for the decoder's slots, with their true positions.

    Returns:
        Token ids and positions, equally long, at most `sequence`: everything while it fits, else the prompt
        and the latest tokens.
    """
    total = len(prompt) + len(tokens)
    if total <= sequence:
        return [*prompt, *tokens], list(range(total))
    kept = sequence - len(prompt)
    return (
        [*prompt, *tokens[-kept:]],
        [*range(len(prompt)), *range(total - kept, total)],
    )


def loop_length(tokens: Sequence[int]) -> int:
    """Return how many tokens at the end are the repetition of what stands before them; 0 if it is no loop.

    A phrase of `LONG_PHRASE` tokens or more is a loop at its second round, a shorter one at round
    `SHORT_PHRASE_ROUNDS`. All rounds but the first count as repetition.
    """
    for length in range(1, min(MAX_LOOP, len(tokens) // 2) + 1):
        rounds = 2 if length >= LONG_PHRASE else SHORT_PHRASE_ROUNDS
        if len(tokens) < rounds * length:
            continue
        phrase = list(tokens[-length:])
        if all(
            list(tokens[len(tokens) - (i + 1) * length : len(tokens) - i * length]) == phrase for i in range(1, rounds)
        ):
            return (rounds - 1) * length
    return 0
