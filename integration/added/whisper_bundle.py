"""A Whisper bundle in this app: everything in which it differs from the models that the app brings along.

Added by `make install-app` of the open Whisper toolchain. A bundle lies in a folder of its own below
`whisper_bundles/`, beside this file, and its manifest says what the pipeline has to know. Nothing is downloaded.
"""

import base64
import json
import queue
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent / "whisper_bundles"


def bundle_of(model_path: str) -> "WhisperBundle | None":
    """The bundle that a model file belongs to, or None for every other model of the app."""
    folder = Path(model_path).resolve().parent
    return WhisperBundle(folder) if folder.parent == FOLDER else None


class WhisperBundle:
    """What the pipeline has to know of a bundle.

    Attributes:
        prompt: the tokens that a transcript starts from, such as start of transcript, language, task, no timestamps.
        seconds: length of the encoder's window.
        sequence: slots of the decoder.
        timeout_ms: how long one inference may take: 100 times what the slowest needs.
        token_embedding_weight: (vocabulary, width) array, one row a token.
        onnx_add_input: (sequence, width) array, the positional embedding that the host adds.
        tokenizer: what the pipeline uses of a tokenizer.
    """

    timeout_ms = 5000

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        model, tokens = manifest["model"], manifest["tokenizer"]
        if manifest["provenance"] == "emulated":
            print(f"EMULATED bundle {manifest['name']}: it does not run on a Hailo device.")
        self.prompt = tokens["sot_sequence"]
        self.seconds = model["seconds"]
        self.sequence = model["sequence"]
        variant = model["variant"]
        self.token_embedding_weight = _load(folder, f"token_embedding_weight_{variant}.npy")
        self.onnx_add_input = _load(folder, f"onnx_add_input_{variant}.npy")
        self.tokenizer = BundleTokenizer(folder / tokens["file"], tokens["eot"])

    def wait_for_transcription(self, pipeline: Any) -> Any:
        """The pipeline's next result; a RuntimeError if its thread has ended and will never give one."""
        while True:
            ended = not pipeline.thread.is_alive()
            try:
                return pipeline.results_queue.get(timeout=0.0 if ended else 0.5)
            except queue.Empty:
                if ended:
                    raise RuntimeError("The inference thread has ended: its error stands above.") from None


class BundleTokenizer:
    """Tokens to text, from the ranks file in the bundle: each line a token's bytes in base64, and its number."""

    def __init__(self, path: Path, eos_token_id: int) -> None:
        self.eos_token_id = eos_token_id
        self._texts: dict[int, bytes] = {}
        for line in path.read_bytes().splitlines():
            text, number = line.split()
            self._texts[int(number)] = b"" if text == b"=" else base64.b64decode(text)

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of some tokens. Special ones have none, so `skip_special_tokens` changes nothing."""
        return b"".join(self._texts.get(int(token), b"") for token in token_ids).decode("utf-8", errors="replace")


def _load(folder: Path, name: str) -> np.ndarray:
    array: np.ndarray = np.load(folder / name, allow_pickle=False)
    return array
