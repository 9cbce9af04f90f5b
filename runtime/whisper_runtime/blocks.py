"""How a long window is divided into blocks that an encoder with a short window takes; see `stitching`."""

# How far a block reaches into the next one, so that a word that is cut off in one is whole in the other.
OVERLAP_SECONDS = 2


def hop_seconds(seconds: int) -> int:
    """Seconds from one block of so many seconds to the next; 0 or less if the overlap is all of it."""
    return seconds - OVERLAP_SECONDS


def window_seconds(seconds: int, blocks: int) -> int:
    """Length of a window of so many blocks of so many seconds each."""
    return seconds + (blocks - 1) * hop_seconds(seconds)
