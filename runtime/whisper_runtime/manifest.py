"""The manifest: what a bundle is, what it holds, and what it was made from.

Written once, in one canonical form, by the toolchain; read and checked here. Two digests protect it:

- `content_digest` covers everything that was made (files, shapes, sources) and names the bundle's version. It
  leaves out what may differ between two makings of the same thing (`build`) and what is learned later
  (`evaluations`).
- `manifest_digest` covers the whole manifest but itself, so that no byte of it can change unnoticed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whisper_runtime.canonical_json import canonical_digest
from whisper_runtime.errors import BundleError

SCHEMA = 1
FILENAME = "manifest.json"
EMULATED = "emulated"
COMPILED = "compiled"

_OUTSIDE_CONTENT = ("version", "content_digest", "build", "evaluations", "manifest_digest")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 of one file of a bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A checked manifest.

    Attributes:
        name: `whisper-<variant>-<s>s-seq<n>-<arch>`.
        version: `<semver>+<first 12 hex digits of the content digest>`.
        content_digest: sha256 over the canonical JSON of what was made, in hex.
        emulated: True if the graphs came from the emulator and not from the vendor's compiler.
        variant, arch: such as "tiny.en" and "hailo8".
        seconds: window length.
        sequence: decoder slots.
        dims: Whisper's hyper-parameters by openai-whisper's names.
        vocabulary_parts: sizes of the logits outputs, in order.
        sot_sequence: the prompt for English transcription without timestamps.
        eot: end-of-text token.
        tokenizer_file: name of the tiktoken ranks in the bundle.
        files: every file of the bundle but the manifest, by name.
        data: the whole manifest as parsed JSON.
    """

    name: str
    version: str
    content_digest: str
    emulated: bool
    variant: str
    arch: str
    seconds: int
    sequence: int
    dims: Mapping[str, int]
    vocabulary_parts: tuple[int, ...]
    sot_sequence: tuple[int, ...]
    eot: int
    tokenizer_file: str
    files: Mapping[str, FileEntry]
    data: Mapping[str, Any]


def seal(data: Mapping[str, Any], semver: str) -> dict[str, Any]:
    """Return a manifest's data with its version and both digests filled in.

    Args:
        data: every field but `version`, `content_digest` and `manifest_digest`.
        semver: version of the toolchain, the part of the bundle's version before the `+`.
    """
    content = canonical_digest({key: value for key, value in data.items() if key not in _OUTSIDE_CONTENT})
    sealed = {**data, "content_digest": content, "version": f"{semver}+{content[:12]}"}
    sealed["manifest_digest"] = canonical_digest({k: v for k, v in sealed.items() if k != "manifest_digest"})
    return sealed


def serialise(data: Mapping[str, Any]) -> bytes:
    """Return the one canonical text of a manifest: sorted keys, indented by one space, ASCII."""
    text = json.dumps(data, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def parse(text: bytes, where: str) -> Manifest:
    """Check a manifest's text and return it typed.

    Args:
        text: content of `manifest.json`.
        where: its path, for messages.

    Raises:
        BundleError: not JSON, of a newer schema, changed since it was written, or with missing or wrong
            fields.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not a manifest ({error}): build or copy the bundle again") from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise BundleError(f"{where}: not a manifest: it has no schema number")
    if data["schema"] > SCHEMA:
        raise BundleError(
            f"{where}: schema {data['schema']} is newer than this runtime, which reads up to {SCHEMA}: "
            "upgrade hailo-whisper-runtime"
        )
    try:
        changed = serialise(data) != text or seal(data, str(data["version"]).split("+")[0]) != data
    except (KeyError, TypeError, ValueError, RecursionError):
        changed = True
    if changed:
        raise BundleError(
            f"{where}: changed since it was written (its digest does not match): build or copy the bundle again"
        )
    try:
        return _typed(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{where}: a field is missing or wrong: {error!r}") from error


def _typed(data: dict[str, Any]) -> Manifest:
    if data["provenance"] not in (EMULATED, COMPILED):
        raise ValueError(f"provenance {data['provenance']}")
    files = {}
    for name, entry in data["files"].items():
        if not _FILE_NAME.fullmatch(name) or name == FILENAME:
            raise ValueError(f"file name {name}")
        files[name] = FileEntry(int(entry["size"]), str(entry["sha256"]))
    model, tokenizer = data["model"], data["tokenizer"]
    return Manifest(
        name=str(data["name"]),
        version=str(data["version"]),
        content_digest=str(data["content_digest"]),
        emulated=data["provenance"] == EMULATED,
        variant=str(model["variant"]),
        arch=str(model["arch"]),
        seconds=int(model["seconds"]),
        sequence=int(model["sequence"]),
        dims={str(key): int(value) for key, value in model["dims"].items()},
        vocabulary_parts=tuple(int(size) for size in model["vocabulary_parts"]),
        sot_sequence=tuple(int(token) for token in tokenizer["sot_sequence"]),
        eot=int(tokenizer["eot"]),
        tokenizer_file=str(tokenizer["file"]),
        files=files,
        data=data,
    )
