"""Ends this process where a call into HailoRT does not return.

HailoRT's Python package keeps hold of the interpreter while it opens, configures and releases a device. If the
driver hangs there, no thread and no signal handler of this process runs any more. So a small process of its own
watches: it is told when such a call begins and ends, and if the end does not come in time it says so and kills us.

Off unless asked for: a library must not end the program that uses it.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

_asked_for = False
_watcher: Any = None  # a Popen; Any, since its stdin may be None to the type checker


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """End this process (SIGKILL, after one line on stderr) if a `time_limit` inside passes. For a command line.

    Raises:
        OSError: the watching process cannot be started; by the first `time_limit`.
    """
    global _asked_for, _watcher
    _asked_for = True
    try:
        yield
    finally:
        _asked_for = False
        watcher, _watcher = _watcher, None
        if watcher is not None:
            watcher.communicate()  # it ends when its input does


@contextlib.contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """Give what is done inside `seconds`. Does nothing unless `watching`.

    Args:
        seconds: until the process is ended. One limit at a time: they do not nest.
        message: one line for the user.
    """
    global _watcher
    if not _asked_for:
        yield
        return
    if _watcher is None:
        # Isolated and without site packages: it starts in a few milliseconds, and whatever the environment says.
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
        # A session of its own, so that Ctrl-C does not end it before us. Its stdout must not keep ours open.
        _watcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0, start_new_session=True
        )
    _tell(_watcher, f"{seconds} {message}\n")
    try:
        yield
    finally:
        _tell(_watcher, "\n")


def _tell(watcher: Any, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # somebody ended it: the work goes on unwatched
        watcher.stdin.write(line.encode())


def _watch(watched: int) -> None:
    """Read limits from stdin until its end; if one passes, print its message and kill the process."""
    limit, message = None, ""
    while select.select([0], [], [], limit)[0]:
        lines = os.read(0, 1 << 16).decode().split("\n")
        if lines == [""]:
            return
        seconds, _, message = lines[-2].partition(" ")  # whole lines: a pipe keeps short writes together
        limit = float(seconds) if seconds else None
    if os.getppid() == watched:
        try:
            os.write(2, f"{message}\n".encode())
        finally:  # the terminal may be gone
            os.kill(watched, signal.SIGKILL)


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
