"""ONNX Runtime sessions, set up the same way wherever the toolchain runs a graph."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def open_session(model: Path | bytes, threads: int = 0, weights: Mapping[str, np.ndarray] | None = None) -> Any:
    """Open a graph on the CPU.

    Args:
        model: the graph, or its file.
        threads: threads for each call; 0 for one per core.
        weights: those that the graph declares as external, by name; they must stay as they are.

    Threads do not spin while they wait: the encoder's and the decoder's pools would otherwise fight for the
    cores (FACTS section 9: no gain from two cores with spinning, 0.44 of the time without).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # As in the runtime: an x86 without VNNI would add int8 products in 16 bits, which overflow.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(weight) for weight in weights.values()]
        options.add_external_initializers(list(weights), values)
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
