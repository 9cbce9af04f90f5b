"""The accelerator's decoder: a graph of a fixed number of slots and no cache, which sees the whole text at each call.

The slots limit the graph, not the text. The host adds the positional embeddings, so once the slots are full it feeds
the prompt and the latest tokens at their true positions; the decoder is causal and asks for nothing else.

Tokens leave the slots in blocks, not one by one. So what a row sees depends on its position alone, and the rows of
guessed tokens, checked together in one call, are bit for bit those of one call each.
"""

from collections.abc import Sequence

import numpy as np

from whisper_runtime.backends import Backend, Features
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.text_decoder import checked_beam_size, mean_logits

# Share of the text's slots that is freed at once: the row after it still sees three quarters of them.
_BLOCKS = 4

# A greedy text with a mean log probability below this is worth a search: another encoding, and for each text a call
# under each picture wherever it leaves the draft. Measured, see benchmarks/README.md.
_DOUBTFUL = -0.25


class SlotDecoder:
    """Runs a backend's decoder graph; see `SearchableDecoder`.

    Args:
        backend: runs the graph.
        embedding: the host's embeddings.
        sequence: slots of the graph.
        beam_size: texts that are followed at once where one is in doubt; None or 1 to decode greedily.

    Raises:
        ValueError: the beam size is less than 1.
    """

    name = "device"
    doubtful_logprob = _DOUBTFUL

    def __init__(
        self, backend: Backend, embedding: TokenEmbedding, sequence: int, beam_size: int | None = None
    ) -> None:
        self.calls = 0
        self.prompt_limit = sequence // 2  # with two thirds, tiny.en makes notably more errors
        self.beam_size = checked_beam_size(1 if beam_size is None else beam_size)
        self._backend = backend
        self._embedding = embedding
        self._sequence = sequence
        self._pictures: list[Features] = [None]

    def begin(self, features: Features) -> None:
        """Start a window; see `TextDecoder`."""
        self._pictures = [features]

    def also(self, features: Features) -> None:
        """Take one more picture of the same window; see `SearchableDecoder`. Logits cost a call for each."""
        self._pictures.append(features)

    def room(self, prompt: int, text: int) -> int:
        """How many guesses fit before tokens have to leave the slots. Raises ValueError if the prompt fills them."""
        return slots_for_text(prompt, self._sequence) + dropped(prompt, text, self._sequence) - text

    def logits(self, prompt: Sequence[int], text: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        """Logits after the tokens at `rows`; see `TextDecoder`."""
        gone, total = dropped(len(prompt), len(text), self._sequence), len(prompt) + len(text)
        if not all(0 <= row < total for row in rows):
            raise ValueError(f"rows {list(rows)}: there are {total} tokens")
        if total > self._embedding.positions:
            raise ValueError(f"{total} tokens: the model knows {self._embedding.positions} positions")
        ids, positions = fill_slots(prompt, text, self._sequence)
        slots = [row if row < len(prompt) else row - gone for row in rows]
        if any(slot < len(prompt) <= row for slot, row in zip(slots, rows, strict=True)):
            raise ValueError(f"rows {list(rows)}: the first {gone} tokens of the text have left the slots")
        embedded = self._embedding.embed(ids, positions, self._sequence)
        found = []
        for features in self._pictures:
            self.calls += 1
            found.append(self._backend.decode(features, embedded, slots))
        return mean_logits(found)


def fill_slots(prompt: Sequence[int], text: Sequence[int], sequence: int) -> tuple[list[int], list[int]]:
    """Choose the tokens for the slots, with their true positions.

    Returns:
        Token ids and positions, equally long, at most `sequence`: everything while it fits, else the prompt and the
        latest tokens.

    Raises:
        ValueError: the prompt leaves no slot for text.
    """
    gone = dropped(len(prompt), len(text), sequence)
    positions = [*range(len(prompt)), *range(len(prompt) + gone, len(prompt) + len(text))]
    return [*prompt, *text[gone:]], positions


def slots_for_text(prompt: int, sequence: int) -> int:
    """Slots that a prompt leaves for text. Raises ValueError if there are none."""
    if prompt >= sequence:
        raise ValueError(f"a prompt of {prompt} leaves none of the {sequence} slots for text")
    return sequence - prompt


def dropped(prompt: int, text: int, sequence: int) -> int:
    """How many of a text's first tokens have left the slots: a multiple of a block that depends on the lengths alone.

    Args:
        prompt, text: numbers of tokens.
        sequence: number of slots.

    Raises:
        ValueError: the prompt leaves no slot for text.
    """
    slots = slots_for_text(prompt, sequence)
    block = max(1, slots // _BLOCKS)
    return max(0, -(-(text - slots) // block)) * block
