"""Host time and memory traffic of one decoder step: this project's HailoRT backend against the reference way.

The device's own time is left out of both: the backend runs on a stand-in for HailoRT that does nothing. It is
measured through its public `decode`, for tiny (10 s, 32 slots, 51865 tokens). The reference way takes four float32
outputs of all 32 rows, joins them, lowers the scores of recent tokens and picks the best.

Run it with `python benchmarks/decoder_step.py`. It fails if a step costs more than a tenth of the reference's.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from figures import Figure, tell
from whisper_runtime.backends.hailort import HailoRTBackend
from whisper_runtime.hef import Hef
from whisper_runtime.manifest import Manifest

SECONDS, SEQUENCE, WIDTH = 10, 32, 384
PARTS = (12966, 12966, 12966, 12967)
VOCABULARY = sum(PARTS)
ZERO_POINT, SCALE = 93.0, 0.21
PENALTY, RECENT, EXCLUDED = 1.5, 8, (11, 13)
STEPS = 200
LIMIT = 0.1

_NAMES = {np.dtype(np.uint8): "UINT8", np.dtype(np.uint16): "UINT16"}


def idle_hailort(dtype: np.dtype, codes: list[np.ndarray]) -> ModuleType:
    """Return a package with the names of `hailo_platform` that the backend uses, whose device takes no time.

    Args:
        dtype: type of the device's numbers.
        codes: the four logits outputs, each (1, SEQUENCE, v_i), that every run leaves in the buffers.
    """

    def info(name: str, shape: tuple[int, ...]) -> SimpleNamespace:
        quant = SimpleNamespace(qp_zp=ZERO_POINT, qp_scale=SCALE)
        return SimpleNamespace(
            name=name, shape=shape, quant_info=quant, format=SimpleNamespace(type=_NAMES[dtype], order="NHWC")
        )

    mel = info("mel", (1, 100 * SECONDS, 80))
    features = info("features", (1, 50 * SECONDS, WIDTH))
    embeddings = info("token_embeddings", (SEQUENCE, 1, WIDTH))
    logits = [info(f"logits_{i}", (1, SEQUENCE, size)) for i, size in enumerate(PARTS)]
    streams = {"encoder.hef": ([mel], [features]), "decoder.hef": ([features, embeddings], logits)}

    class OpenedHef:
        def __init__(self, path: str) -> None:
            self.inputs, self.outputs = streams[path]

        def get_input_vstream_infos(self) -> list[Any]:
            return self.inputs

        def get_output_vstream_infos(self) -> list[Any]:
            return self.outputs

        def get_sorted_output_names(self) -> list[str]:
            return [output.name for output in self.outputs]

        def get_original_names_from_vstream_name(self, name: str) -> list[str]:
            return [name]

    class Bindings:
        def input(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(set_buffer=lambda buffer: None)

        def output(self, name: str) -> SimpleNamespace:
            # Every run would leave the same numbers, so they are left here once.
            part = int(name.removeprefix("logits_")) if name != "features" else None
            return SimpleNamespace(set_buffer=lambda buffer: None if part is None else np.copyto(buffer, codes[part]))

    class ConfiguredModel:
        done = SimpleNamespace(exception=None)
        job = SimpleNamespace(wait=lambda timeout_ms: None)

        def __enter__(self) -> "ConfiguredModel":
            return self

        def __exit__(self, *error: object) -> None:
            return None

        def create_bindings(self) -> Bindings:
            return Bindings()

        def wait_for_async_ready(self, timeout_ms: int) -> None:
            return None

        def run_async(self, bindings: list[Bindings], callback: Callable[..., None]) -> SimpleNamespace:
            callback(completion_info=self.done)
            return self.job

        def shutdown(self) -> None:
            return None

    class VDevice:
        def __init__(self, params: SimpleNamespace) -> None:
            self.params = params

        @staticmethod
        def create_params() -> SimpleNamespace:
            return SimpleNamespace()

        def create_infer_model(self, path: str) -> SimpleNamespace:
            def end(name: str) -> SimpleNamespace:
                return SimpleNamespace(set_format_type=lambda kind: None)

            return SimpleNamespace(input=end, output=end, configure=ConfiguredModel)

        def release(self) -> None:
            return None

    package = ModuleType("hailo_platform")
    contents = {
        "__version__": "4.20.0",
        "FormatType": SimpleNamespace(UINT8="UINT8", UINT16="UINT16", FLOAT32="FLOAT32"),
        "HailoSchedulingAlgorithm": SimpleNamespace(ROUND_ROBIN="ROUND_ROBIN"),
        "HEF": OpenedHef,
        "VDevice": VDevice,
    }
    vars(package).update(contents)
    return package


def open_backend(dtype: np.dtype, codes: list[np.ndarray]) -> HailoRTBackend:
    """Open the real backend on the stand-in."""
    sys.modules["hailo_platform"] = idle_hailort(dtype, codes)
    manifest = Manifest(
        name="whisper-tiny-10s-seq32-hailo8",
        version="0",
        content_digest="",
        emulated=False,
        variant="tiny",
        arch="hailo8",
        seconds=SECONDS,
        sequence=SEQUENCE,
        dims={"n_mels": 80, "n_text_state": WIDTH},
        vocabulary_parts=PARTS,
        sot_sequence=(),
        eot=0,
        tokenizer_file="",
        files={},
        data={},
    )
    encoder, decoder = (
        Hef(Path(name), 3, "hailo8", "3.33.0", None, (), (), ()) for name in ("encoder.hef", "decoder.hef")
    )
    return HailoRTBackend(encoder, decoder, manifest)


def reference_step(codes: list[np.ndarray], row: int, recent: list[int]) -> int:
    """What the host does in the reference way, from new buffers and HailoRT's dequantisation to the token."""
    outputs = [np.zeros(stored.shape, np.float32) for stored in codes]
    for stored, output in zip(codes, outputs, strict=True):
        np.subtract(stored, ZERO_POINT, out=output, dtype=np.float32)
        np.multiply(output, np.float32(SCALE), out=output)
    logits = np.concatenate(outputs, axis=2)[0, row]
    for token in set(recent[-RECENT:]):
        if token not in EXCLUDED:
            logits[token] /= PENALTY
    return int(np.argmax(logits))


def our_step(backend: HailoRTBackend, features: Any, embeddings: np.ndarray, row: int) -> int:
    """What the host does here, from the embedded tokens to the token."""
    return int(np.argmax(backend.decode(features, embeddings, [row])[0]))


def bytes_moved(size: int) -> tuple[int, int]:
    """Bytes that the host reads and writes in one step, ours and the reference's, for codes of `size` bytes.

    Counted from the code, not measured. Unlike the times, both hold the copy of every output that HailoRT's Python
    package makes in the type asked for.
    """
    row, all_rows, embeddings = VOCABULARY, VOCABULARY * SEQUENCE, SEQUENCE * WIDTH * 4
    # Check and copy the embeddings, HailoRT's copy, subtract, scale, best.
    ours = 3 * embeddings + all_rows * 2 * size + row * (size + 4 + 8 + 4)
    # Zero the buffers, dequantise in one pass, HailoRT's copy, join, best.
    reference = all_rows * (4 + size + 4 + 8 + 8) + row * 4
    return ours, reference


def measure(dtype: np.dtype) -> Figure:
    """Print one line for a type of numbers and return the figure."""
    values = np.random.default_rng(0)
    top = int(np.iinfo(dtype).max)
    codes = [values.integers(0, top - 1, (1, SEQUENCE, size), dtype=dtype) for size in PARTS]
    for row in range(SEQUENCE):
        codes[0][0, row, 100 + row] = top  # so that both have one right answer, whatever is penalised
    embeddings = values.standard_normal((SEQUENCE, 1, WIDTH)).astype(np.float32)
    recent = [int(token) for token in values.integers(50000, VOCABULARY, RECENT)]
    ours, reference = [], []
    with open_backend(dtype, codes) as backend:
        features = backend.encode(np.zeros((1, 100 * SECONDS, 80), np.float32))
        for step in range(STEPS):
            row = step % SEQUENCE
            start = time.perf_counter()
            token = our_step(backend, features, embeddings, row)
            middle = time.perf_counter()
            expected = reference_step(codes, row, recent)
            end = time.perf_counter()
            if token != expected:
                raise SystemExit(f"the two ways disagree at step {step}: {token} and {expected}")
            ours.append(middle - start)
            reference.append(end - middle)
    mine, theirs = statistics.median(ours), statistics.median(reference)
    moved = [count / 1e6 for count in bytes_moved(dtype.itemsize)]
    print(
        f"{dtype.name:<8} {1e3 * mine:>8.3f} ms {1e3 * theirs:>10.3f} ms {mine / theirs:>8.3f}"
        f" {moved[0]:>9.2f} MB {moved[1]:>9.2f} MB"
    )
    return Figure(
        f"host's part of a decoder step, {dtype.name}",
        1e3 * mine,
        "ms",
        "reference flow",
        1e3 * theirs,
        most_ratio=LIMIT,
    )


def main() -> int:
    """Measure both types of numbers; 1 if one of them is beyond the limit."""
    print(f"one decoder step on the host, tiny, {SEQUENCE} rows x {VOCABULARY}, median of {STEPS} interleaved steps")
    print(f"{'outputs':<8} {'ours':>11} {'reference':>13} {'share':>8} {'moved: ours':>12} {'reference':>12}")
    return tell(*(measure(np.dtype(dtype)) for dtype in (np.uint8, np.uint16)))


if __name__ == "__main__":
    sys.exit(main())
