"""A file of JSON lines that is appended to: what is in it survives a process that is killed while it writes."""

import json
import os
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a file, oldest first; none if it is not there.

    A last line without an end was cut off while it was written. It is taken off the file, so that the next line does
    not go on with it. Raises OSError.
    """
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
    return whole.split(b"\n")[:-1]  # by line feeds alone, as they are written


def append_line(path: Path, entry: Any) -> None:
    """Add an entry and bring it to disk. Raises OSError."""
    with path.open("ab") as file:
        file.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
