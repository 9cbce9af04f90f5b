"""Hailo's reference flow, as its evaluation decodes on the host: what our decoding is compared with.

Its evaluation leaves out recordings that are longer than a window. Here they are cut, as its app does.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.backends import Backend, Features
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend, open_session
from whisper_runtime.decoding import Decoded
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.transcriber import Transcriber
from whisper_runtime.window_reader import Prompt, Reading, WindowReader
from whisper_runtime.windows import Window
from whisper_toolchain.graph_contract import DECODER, ENCODER
from whisper_toolchain.shape_plan import ShapePlan

# What it begins a text with, of all variants: the start of a transcript for multilingual ones, a language for .en ones.
START = 50258

# It divides the scores of so many tokens before by this, but for comma and full stop. (In the app there are eight.)
PENALTY, RECENT, EXCLUDED = 1.5, 4, {11, 13}


class ReferenceReader(WindowReader):
    """Decodes as the reference flow does: token by token until the slots are full, all logits of all slots each time.

    With its own prompt, which is `START` alone, .en models fill all slots, and others spend three calls on guessing the
    language, the task and whether there are timestamps.
    """

    def __init__(
        self,
        backend: Backend,
        decoder: SlotDecoder,
        tokenizer: Tokenizer,
        plan: ShapePlan,
        graph: Path,
        arrays: tuple[np.ndarray, np.ndarray],
        threads: int | None = None,
    ) -> None:
        super().__init__(backend, decoder, tokenizer, plan.seconds)
        self._session = open_session(graph, threads, "the reference flow")
        self._logits = sorted(output.name for output in self._session.get_outputs())
        self._weight, self._positional = arrays[0], arrays[1][: plan.sequence]
        self._counted = decoder  # it is not run, it only counts

    def read(self, window: Window, features: Features, prompt: Prompt, draft: Sequence[int] = ()) -> list[Reading]:
        """Decode; there are no second looks."""
        return self.glance(window, features, prompt)

    def glance(self, window: Window, features: Features, prompt: Prompt, draft: Sequence[int] = ()) -> list[Reading]:
        """Decode from nothing."""
        ids = np.zeros(len(self._positional), np.int64)
        ids[: len(prompt.tokens)] = prompt.tokens
        text: list[int] = []
        for row in range(len(prompt.tokens) - 1, len(ids) - 1):
            embedded = self._weight[ids] + self._positional
            feeds = {"features": features, "token_embeddings": np.ascontiguousarray(embedded.T[None, :, :, None])}
            logits = np.concatenate(self._session.run(self._logits, feeds), axis=2)[0, row]
            self._counted.calls += 1
            for token in set(text[-RECENT:]) - EXCLUDED:
                logits[token] /= PENALTY
            best = int(logits.argmax())
            if best == self._tokenizer.eot:
                break
            text.append(best)
            ids[row + 1] = best
        return [Reading(window, Decoded(tuple(text), 0.0, 0.0))]


def open_reference(
    plan: ShapePlan,
    export: Path,
    arrays: tuple[np.ndarray, np.ndarray],
    tokenizer: Tokenizer,
    threads: int | None = None,
) -> Transcriber:
    """A transcriber whose windows a `ReferenceReader` reads.

    Args:
        plan: the shapes.
        export: folder of the float graphs.
        arrays: token embedding and positional embedding.
        tokenizer: the model's tokenizer.
        threads: threads for each call; None for one per core.
    """
    backend = OnnxRuntimeBackend(export / ENCODER, None, threads)
    counted = SlotDecoder(backend, TokenEmbedding(*arrays), plan.sequence)
    transcriber = Transcriber.from_parts(backend, counted, tokenizer, plan.seconds)
    transcriber.reader = ReferenceReader(backend, counted, tokenizer, plan, export / DECODER, arrays, threads)
    return transcriber


def reference_text(transcriber: Transcriber, samples: np.ndarray, prompt: Prompt) -> str:
    """The text of a whole recording, (n,) at 16 kHz, cut wherever the window is full, by a `ReferenceReader`."""
    size = transcriber.seconds * SAMPLE_RATE
    texts = []
    for start in range(0, len(samples), size):
        window = Window(start, samples[start : start + size])
        (reading,) = transcriber.reader.read(window, transcriber.reader.encode(window), prompt)
        texts.append(until_repeated(transcriber.tokenizer.decode(reading.decoded.tokens)))
    return " ".join(texts)


def until_repeated(text: str) -> str:
    """A text up to the first sentence that holds an earlier one or is part of it: the flow's cure for loops."""
    kept: list[str] = []
    said: list[str] = []
    for sentence in re.split(r"(?<=[.?])\s+", text.strip()):
        letters = sentence.lower()
        if any(letters in earlier or earlier in letters for earlier in said):
            break
        kept.append(sentence)
        said.append(letters)
    return " ".join(kept)
