"""How a long window is divided into blocks that an encoder with a short window takes; see `stitching`."""

# Of a block, what is not kept on a side where another one goes on: words that are cut off there are whole in that one.
MARGIN_SECONDS = 1


def hop_seconds(seconds: int) -> int:
    """Seconds from one block of so many seconds to the next; 0 or less if its margins are all of it."""
    return seconds - 2 * MARGIN_SECONDS


def window_seconds(seconds: int, blocks: int) -> int:
    """Length of a window of so many blocks of so many seconds each."""
    return seconds + (blocks - 1) * hop_seconds(seconds)
