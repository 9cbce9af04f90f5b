"""How far a long recording is: one line on a terminal that is drawn over and over."""

import time
from typing import TextIO


class Progress:
    """Shows `  37 %  12:34 of 34:00  14.2x` on a terminal, and nothing on anything else.

    Whoever writes to the same terminal calls `clear` before.

    Args:
        stream: the terminal, or not.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._width = 0
        self._duration: float | None = None
        self._began = 0.0

    def start(self, duration: float | None) -> None:
        """Begin a recording of this many seconds; None if they are not known."""
        self._duration = duration
        self._began = time.monotonic()

    def show(self, position: float) -> None:
        """Draw that this many seconds of the recording are done."""
        if not self._is_terminal:
            return
        elapsed = time.monotonic() - self._began
        speed = f"{position / elapsed:.1f}x" if elapsed > 0 else ""
        if self._duration:
            share = min(100.0, 100 * position / self._duration)
            line = f"{share:4.0f} %  {clock(position)} of {clock(self._duration)}  {speed}"
        else:
            line = f"  {clock(position)}  {speed}"
        self.clear()
        self._stream.write(line)
        self._stream.flush()
        self._width = len(line)

    def clear(self) -> None:
        """Take the line off, if one is there."""
        if self._width:
            self._stream.write(f"\r{' ' * self._width}\r")
            self._stream.flush()
            self._width = 0


def clock(seconds: float) -> str:
    """Return a time as `4:05` or `1:04:05`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
