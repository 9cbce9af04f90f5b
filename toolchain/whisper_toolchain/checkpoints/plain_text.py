"""Text out of somebody else's file, before it gets into names and messages."""

import re


def is_plain_name(name: object) -> bool:
    """True for what a tensor may be called: a short word without spaces, escapes or line breaks."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_./-]{1,256}", name) is not None


def shown(value: object, limit: int = 120) -> str:
    """`value` as one printable line of at most `limit` characters."""
    line = " ".join(str(value).split())
    return "".join(c if c.isprintable() else "?" for c in line[:limit])
