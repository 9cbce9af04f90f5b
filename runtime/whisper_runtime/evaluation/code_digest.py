"""What a transcript depends on besides its model: the runtime's own code."""

import hashlib
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_MODULES = (
    *("audio", "backends.onnxruntime", "backends.hailort", "beam_search", "blocks", "decoding", "drafted_branches"),
    *("embedding", "host_decoder", "loops", "mel", "segment", "segmenting", "slot_decoder", "spoken_language"),
    *("stitching", "text_decoder", "token_rules", "tokenizer", "transcriber", "window_reader", "windows"),
)


def code_digest() -> str:
    """Sha256 over the source of everything that decides on a text: results of other code are not taken up again."""
    digest = hashlib.sha256()
    for name in _MODULES:
        digest.update((_ROOT / f"{name.replace('.', '/')}.py").read_bytes())
    return digest.hexdigest()
