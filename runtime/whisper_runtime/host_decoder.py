"""The decoder on the host's CPU: with a key-value cache, so that a step costs one token and not all slots.

It takes the next tokens of several texts in one call, for hardly more than one costs: what a call costs is reading the
weights.

Runs the two graphs that the toolchain's module of the same name writes, with ONNX Runtime.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whisper_runtime.backends import Backend, Features
from whisper_runtime.backends.onnxruntime import open_session, run_session
from whisper_runtime.decoding import probability
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import BackendError
from whisper_runtime.text_decoder import checked_beam_size, mean_logits

CROSS_ATTENTION = "cross_attention.onnx"
HOST_DECODER = "host_decoder.onnx"

ALIGNMENT = "alignment"
"""Output of the decoder: scores of the heads that follow the sound, (heads, new tokens, frames)."""

# How many texts are followed at once, and how likely one must be not to be doubted: what keeps each model twice as fast
# as faster-whisper with one beam. With more, base still gains and tiny does not. Measured, see benchmarks/README.md.
_BLOCKS_OF_TINY = 4
_BEAMS_OF_TINY, _DOUBTFUL_OF_TINY = 3, -0.4
_BEAMS, _DOUBTFUL = 5, -0.25

_HIDDEN = np.float32(-1e9)  # added to the scores of what a token must not see

_Cache = dict[str, np.ndarray]


class HostDecoder:
    """Decodes on the CPU what a backend has encoded; see `BranchingDecoder`.

    The tokens of one text are computed one by one. So `logits` gives the same for the same tokens, bit for bit,
    whatever was asked before.

    Args:
        backend: gives the features as floats.
        embedding: the host's embeddings.
        folder: holds the two graphs.
        threads: threads for each call; None for one per core.
        beam_size: texts that are followed at once; 1 to decode greedily; None for 3 (tiny) or 5 (base).

    Attributes:
        aligns: whether it can say where it looks; bundles of earlier versions cannot.

    Raises:
        ValueError: the beam size is less than 1.
        BackendError: the folder has no such graphs, onnxruntime is not installed or cannot load them.
    """

    name = "host"

    def __init__(
        self,
        backend: Backend,
        embedding: TokenEmbedding,
        folder: Path,
        threads: int | None = None,
        beam_size: int | None = None,
    ) -> None:
        asked = None if beam_size is None else checked_beam_size(beam_size)
        self.calls = 0
        self.prompt_limit = embedding.positions // 2  # as in openai-whisper
        self._backend = backend
        self._embedding = embedding
        for name in (CROSS_ATTENTION, HOST_DECODER):
            if not (folder / name).is_file():
                raise BackendError(
                    f"{folder}: has no {name}, so it was built before there was a decoder for the CPU: build the "
                    "bundle again, or use --decoder device"
                )
        self._cross_attention, self._decoder = (
            open_session(folder / name, threads, "the decoder on the CPU (--decoder host)")
            for name in (CROSS_ATTENTION, HOST_DECODER)
        )
        self._cross_names = [value.name for value in self._cross_attention.get_outputs()]
        # The cache of no tokens: keys and values of each block.
        self._empty = {
            value.name: np.zeros([size if isinstance(size, int) else 0 for size in value.shape], np.float32)
            for value in self._decoder.get_inputs()
            if value.name.startswith("self_")
        }
        self._outputs = ["logits", *(f"new_{name}" for name in self._empty)]
        if "hidden" not in {value.name for value in self._decoder.get_inputs()}:
            raise BackendError(
                f"{folder / HOST_DECODER}: was built before it could decode several texts at once: build the bundle "
                "again, or use --decoder device"
            )
        self.aligns = ALIGNMENT in {value.name for value in self._decoder.get_outputs()}
        is_tiny = len(self._empty) <= 2 * _BLOCKS_OF_TINY  # keys and values
        self.beam_size = asked or (_BEAMS_OF_TINY if is_tiny else _BEAMS)
        self.doubtful_logprob = _DOUBTFUL_OF_TINY if is_tiny else _DOUBTFUL
        # For each picture: cross-attention's keys and values, and what is cached of one text's tokens and of a tree's.
        self._cross: list[_Cache] = []
        self._text: list[_Cache] = []
        self._tree: list[_Cache] = []
        self._known: list[int] = []  # tokens of the text
        self._branches: dict[tuple[int, ...], int] = {}  # the place of each text's last token in the tree
        self._seen: np.ndarray = np.zeros((0, 0), bool)  # what each token of the tree sees

    def begin(self, features: Features) -> None:
        """Start a window: waits for its features and computes its cross-attention's keys and values.

        Raises:
            BackendError: the device or the graph fails; there is no window then.
        """
        self._cross = []
        self.also(features)

    def also(self, features: Features) -> None:
        """Take one more picture of the same window; see `SearchableDecoder`. Raises as `begin`."""
        before, self._cross, self._known, self._branches = self._cross, [], [], {}
        feeds = {"features": self._backend.read_features(features)}
        results = run_session(self._cross_attention, self._cross_names, feeds)
        self._cross = [*before, dict(zip(self._cross_names, results, strict=True))]
        self._text = [self._empty] * len(self._cross)

    def room(self, prompt: int, text: int) -> int:
        """A guess costs as much as the token itself, so none is checked."""
        return 0

    def logits(self, prompt: Sequence[int], text: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        """Logits after the tokens at `rows`; see `TextDecoder`. Only what the cache does not hold is computed."""
        tokens, wanted = [*prompt, *text], set(rows)
        if not 0 <= rows[0] <= rows[-1] < len(tokens):
            raise ValueError(f"rows {list(rows)}: there are {len(tokens)} tokens")
        self._check(rows[-1])
        known = 0
        while known < min(len(self._known), rows[0]) and self._known[known] == tokens[known]:
            known += 1
        self._known = tokens[:known]
        self._text = [_first(cache, known) for cache in self._text]
        return np.concatenate([self._step(tokens[row], row in wanted) for row in range(known, rows[-1] + 1)])

    def branches(self, prompt: Sequence[int], texts: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Logits after several texts; see `BranchingDecoder`. One call for all of them."""
        start = tuple(prompt)
        if start not in self._branches:
            if self._known[: len(start)] != list(start):
                self.logits(start, [], [len(start) - 1])
            self._tree = [_first(cache, len(start)) for cache in self._text]
            self._branches = {start[: end + 1]: end for end in range(len(start))}
            self._seen = np.tri(len(start), dtype=bool)
        ends = [(*start, *text) for text in texts]
        self._check(max(map(len, ends)) - 1)
        try:
            before = [self._branches[end[:-1]] for end in ends]
        except KeyError:
            raise ValueError("a text that is more than a token longer than any before") from None
        held, new = len(self._seen), len(ends)
        seen = np.zeros((held + new, held + new), bool)
        seen[:held, :held] = self._seen
        seen[held:, :held] = self._seen[before]
        seen[held:, held:] = np.eye(new, dtype=bool)
        tokens, positions = [end[-1] for end in ends], [len(end) - 1 for end in ends]
        hidden = np.where(seen[held:], np.float32(0), _HIDDEN)
        # All at once, so that an interrupted call changes nothing.
        logits, self._tree = self._run(self._tree, tokens, positions, hidden, list(range(new)))
        self._seen = seen
        self._branches |= {end: place for place, end in enumerate(ends, start=held)}
        return logits

    def align(self, prompt: Sequence[int], text: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Where in the window the decoder looks for each token of a known text.

        Args:
            prompt: the sot sequence.
            text: the tokens after it.

        Returns:
            Scores (heads, len(text) + 1, frames) float32 of the heads that follow the sound, before each token and
            before the end of the text; and how likely the decoder holds each token, (len(text),) float64, 0 to 1.

        Raises:
            BackendError: there is no window, or a graph fails, as one that does not align.
            ValueError: a token has a position that the model does not know.
        """
        tokens, scores, probabilities = [*prompt, *text], [], []
        self._check(len(tokens) - 1)
        cross, cache = self._cross[0], self._empty
        for place, token in enumerate(tokens):
            wanted = len(prompt) - 1 <= place < len(tokens) - 1
            feeds = self._feeds([token], [place], np.zeros((1, place + 1), np.float32), [0] if wanted else [])
            looks, logits, *values = run_session(
                self._decoder, [ALIGNMENT, *self._outputs], {**feeds, **cross, **cache}
            )
            self.calls += 1
            cache = dict(zip(cache, values, strict=True))
            if place >= len(prompt) - 1:
                scores.append(looks)
            probabilities += [probability(row, tokens[place + 1]) for row in logits]
        return np.concatenate(scores, axis=1), np.array(probabilities)

    def _check(self, last: int) -> None:
        """Raise unless there is a window, and the model knows the position of the last token that is asked for."""
        if not self._cross:
            raise BackendError("the host decoder has no window: call begin first")
        if last >= self._embedding.positions:
            raise ValueError(f"row {last}: the model knows {self._embedding.positions} positions")

    def _step(self, token: int, wanted: bool) -> np.ndarray:
        """Add a token to the text's cache. Returns the logits after it (1, vocab), or (0, vocab) if not wanted."""
        place = len(self._known)
        hidden = np.zeros((1, place + 1), np.float32)
        logits, self._text = self._run(self._text, [token], [place], hidden, [0] if wanted else [])
        self._known.append(token)
        return logits

    def _run(
        self,
        caches: Sequence[_Cache],
        tokens: Sequence[int],
        positions: Sequence[int],
        hidden: np.ndarray,
        rows: Sequence[int],
    ) -> tuple[np.ndarray, list[_Cache]]:
        """Run the graph for each picture on new tokens (n,), with its cache of p others; `hidden` is (n, p + n).

        Returns:
            Logits (len(rows), vocab) under all pictures, and the caches of all tokens.
        """
        feeds = self._feeds(tokens, positions, hidden, rows)
        found, grown = [], list[_Cache]()
        for cross, cache in zip(self._cross, caches, strict=True):
            logits, *values = run_session(self._decoder, self._outputs, {**feeds, **cross, **cache})
            self.calls += 1
            found.append(logits)
            grown.append(dict(zip(cache, values, strict=True)))
        return mean_logits(found), grown

    def _feeds(
        self, tokens: Sequence[int], positions: Sequence[int], hidden: np.ndarray, rows: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """The graph's inputs, but for a picture's and its cache's; as `_run`."""
        return {
            "token_embeddings": self._embedding.embed(tokens, positions, len(tokens))[:, 0],
            "hidden": hidden,
            "rows": np.array(rows, np.int64),
        }


def _first(cache: _Cache, count: int) -> _Cache:
    """The cache of the first tokens."""
    return {name: np.ascontiguousarray(values[:, :count]) for name, values in cache.items()}
