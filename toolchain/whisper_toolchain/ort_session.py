"""ONNX Runtime sessions, set up the same way wherever the toolchain runs a graph."""

from pathlib import Path
from typing import Any


def open_session(model: Path | bytes, threads: int = 0) -> Any:
    """Open a graph on the CPU, with so many threads for each call; 0 for one per core.

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
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
