"""How much memory this process takes at its worst."""

from pathlib import Path


class PeakMemory:
    """The most memory that this process has had resident since this object was made.

    Linux keeps that mark and resets it on request (man 5 proc, clear_refs). Where it cannot be reset, there is no
    figure, and not one that includes what was before.
    """

    def __init__(self) -> None:
        self._reset = True
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            self._reset = False

    @property
    def megabytes(self) -> float | None:
        """In units of 10**6 bytes; None where it cannot be told."""
        if not self._reset:
            return None
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
        return None
