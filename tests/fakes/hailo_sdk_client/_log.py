"""What the fake prints. Public logs of the vendor's compiler (whisper tiny encoder, 8L, no GPU) show the same kinds:

log lines on stdout; progress bars that end in a carriage return; lines that TensorFlow's and the allocator's native
code write to descriptor 1 behind Python's back; and TensorFlow's warnings on stderr.
"""

import os
import sys
from pathlib import Path

LOG_FILE = "hailo_sdk.client.log"  # public scripts clean such files from the current folder after a run


def line(text: str, level: str = "info") -> None:
    """One line of the log on stdout, and in the log file of the current folder."""
    print(f"[{level}] {text}", flush=True)
    with Path(LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(f"{level}: {text}\n")


def native(text: str) -> None:
    """Text that does not come through sys.stdout."""
    sys.stdout.flush()
    os.write(1, text.encode())


def bar(label: str, total: int, unit: str) -> None:
    """A finished progress bar, drawn twice on one line."""
    for done in (total // 2, total):
        filled = "█" * (30 * done // total)
        native(f"\r{label}: {100 * done // total:3d}%|{filled:30s}| {done}/{total} [00:00<00:00, 99.9{unit}/s]")
    native("\n")


def tensorflow() -> None:
    """What the import of TensorFlow says on stderr on a machine without a GPU."""
    print("WARNING: All log messages before absl::InitializeLog() is called are written to STDERR", file=sys.stderr)
    print("E0000 00:00:1759859330.731148 1701077 cuda_dnn.cc:8310] Unable to register cuDNN factory", file=sys.stderr)


def epochs(count: int, steps: int, layer: str) -> None:
    """Keras' output during fine-tuning."""
    for epoch in range(1, count + 1):
        native(f"Epoch {epoch}/{count}\n")
        for step in (1, steps):
            native(f"\r {step}/{steps} ━━━━━━━━━━━━━━━━━━━━ 0s 21ms/step - _distill_loss_{layer}: 0.3379")
        native("\n")
