"""The engines of others that speed.py measures, with the same checkpoint, greedy, at temperature 0."""

from pathlib import Path
from typing import Any

import numpy as np
from speed_engine import ROOT, THREADS


class OpenaiWhisper:
    """openai-whisper in torch, float32."""

    decoding, calls, encodings = 0.0, 0, 0

    def __init__(self, variant: str) -> None:
        import torch
        from whisper_toolchain import third_party
        from whisper_toolchain.checkpoints import load
        from whisper_toolchain.model import build_model
        from whisper_toolchain.stages.fetch import CHECKPOINT
        from whisper_toolchain.workspace import Workspace

        torch.set_num_threads(THREADS)
        workspace = Workspace(ROOT)
        tree = third_party.unpack_stock(workspace.third_party, ROOT / "build" / "benchmarks" / "stock")
        self._whisper = third_party.import_whisper(tree, "stock_whisper")
        self._model = build_model(self._whisper, load(workspace.checkpoint(variant) / CHECKPOINT), 1500)

    def load(self, clip: str) -> np.ndarray:
        """Samples of a clip."""
        from whisper_runtime.audio import load_audio

        return load_audio(clip)

    def text(self, samples: np.ndarray) -> str:
        """Transcribe."""
        found: dict[str, Any] = self._whisper.transcribe(
            self._model, samples, temperature=0.0, language="en", fp16=False
        )
        return str(found["text"]).strip()


class FasterWhisper:
    """faster-whisper, int8, one beam.

    Args:
        model: what speed_ct2.py wrote.
        timestamps: as by default; False spares it the timestamp tokens, which this project's runtime leaves out too.
    """

    decoding, calls, encodings = 0.0, 0, 0

    def __init__(self, model: Path, *, timestamps: bool) -> None:
        from faster_whisper import WhisperModel

        self._without_timestamps = not timestamps
        self._model = WhisperModel(str(model), device="cpu", compute_type="int8", cpu_threads=THREADS)

    def load(self, clip: str) -> np.ndarray:
        """Samples of a clip."""
        from faster_whisper import decode_audio

        samples: np.ndarray = decode_audio(clip)
        return samples

    def text(self, samples: np.ndarray) -> str:
        """Transcribe."""
        segments, _ = self._model.transcribe(
            samples,
            language="en",
            beam_size=1,
            temperature=0.0,
            without_timestamps=self._without_timestamps,
        )
        return "".join(segment.text for segment in segments).strip()
