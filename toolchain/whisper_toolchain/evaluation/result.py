"""The file that an evaluation leaves behind: read again, and checked, for it may come from a device or from anybody."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whisper_runtime.evaluation.summary import SCHEMA

from whisper_toolchain.errors import EvaluationError


class _Optional:
    """What may be null or not there."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


class _Decibels:
    """A number that may be infinite (no noise), NaN or null (nothing to measure)."""


_AGAINST = {"name": str, "points": float, "low": float, "high": float, "p": float}
_SCORE = {
    **dict.fromkeys(("wer", "wer_low", "wer_high", "cer"), float),
    **dict.fromkeys(("clips", "substitutions", "deletions", "insertions", "words", "hallucinations", "empty"), int),
}
_CLIP = {
    **dict.fromkeys(("id", "audio", "reference", "text"), str),
    **dict.fromkeys(("normalised_reference", "normalised_text"), _Optional(str)),
    "duration": float,
    "errors": int,
    "words": int,
}
_DEVICE = {
    "power_w": _Optional({"mean": _Optional(float), "max": _Optional(float)}),
    "temperature_c": _Optional({"max": _Optional(float)}),
}
_MEASURED = {
    "score": _SCORE,
    "drafted": bool,
    "calls": _Optional(int),
    "seconds": float,
    "stages": {str: float},
    "real_time_factor": float,
    "peak_memory_mb": _Optional(float),
    "failed": [{"id": str, "reason": str, "unreadable": _Optional(bool)}],
    "clips": [_CLIP],
    "against": _Optional(_AGAINST),
    "device": _Optional(_DEVICE),
}
_LAYER = {
    **dict.fromkeys(("graph", "layer", "recipe_line"), str),
    "bits": int,
    "own_snr_db": _Decibels(),
    "snr_db": _Decibels(),
}
# Without "compiler" it is the emulator's.
_LAYER_NOISE = {"clips": int, "layers": [_LAYER], "compiler": _Optional(str)}
_RESULT = {
    "bundle": {"name": str, "version": _Optional(str), "digest": _Optional(str), "emulated": bool},
    "dataset": {
        "name": str,
        "digest": str,
        "seed": int,
        "limit": _Optional(int),
        "clips": int,
        "seconds": float,
        "without_text": int,
        "unreadable": [{"id": str, "reason": _Optional(str)}],
    },
    "language": _Optional(str),
    "normaliser": str,
    "machine": dict,
    "versions": dict,
    "toolchain": str,
    "git_revision": _Optional(str),
    "date": _Optional(str),
    "command": _Optional(str),
    "rungs": [{"name": str, "status": str, "changed": str, "reason": _Optional(str)}],
    "verdict": str,
    "layer_noise": _Optional(_LAYER_NOISE),
}


def read_result(path: Path) -> dict[str, Any]:
    """Read the JSON of an evaluation. Keys that need not be there are None where they are not.

    Raises:
        EvaluationError: it cannot be read, is of another schema, or is not what an evaluation writes. One line.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: not JSON ({' '.join(str(error).split())[:100]})") from error
    if not isinstance(data, dict) or "schema" not in data or "rungs" not in data:
        raise EvaluationError(f"{path}: not the result of an evaluation")
    if data["schema"] != SCHEMA:
        raise EvaluationError(
            f"{path}: schema {str(data['schema'])[:20]!r}, this toolchain reads {SCHEMA}: evaluate again"
        )
    try:
        _check(data, _RESULT, "")
        for number, rung in enumerate(data["rungs"]):
            if rung["status"] == "measured":
                _check(rung, _MEASURED, f"rungs[{number}]")
            elif rung["reason"] is None:
                raise ValueError(f"rungs[{number}].reason: missing")
    except ValueError as error:
        raise EvaluationError(f"{path}: not the result of an evaluation: {error}") from error
    return data


def check_layer_noise(value: Any) -> None:
    """Raise ValueError, which says where, unless a value is a list of layers with their noise."""
    _check(value, _LAYER_NOISE, "")


def measured_rungs(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rungs that have figures, in the ladder's order."""
    return [rung for rung in result["rungs"] if rung["status"] == "measured"]


def _check(value: Any, shape: Any, where: str) -> None:
    """Raise ValueError, which says where, unless a value has the shape. What may be missing and is becomes None."""
    if isinstance(shape, _Optional):
        if value is not None:
            _check(value, shape.shape, where)
    elif isinstance(shape, _Decibels):
        if value is not None and not _is_a(value, float) and not isinstance(value, float):
            raise ValueError(f"{where}: not a number")
    elif isinstance(shape, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'the whole'}: not an object")
        keys: Sequence[Any] = list(value) if str in shape else list(shape)
        for key in keys:
            inner = shape.get(key, shape.get(str))
            place = f"{where}.{ascii(key)[1:-1]}".lstrip(".")  # on one line, whatever the key
            if isinstance(inner, _Optional):
                value.setdefault(key, None)
            elif key not in value:
                raise ValueError(f"{place}: missing")
            _check(value[key], inner, place)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where}: not a list")
        for number, each in enumerate(value):
            _check(each, shape[0], f"{where}[{number}]")
    elif not _is_a(value, shape):
        raise ValueError(f"{where}: not {_NAMES[shape]}")


_NAMES = {str: "a text", bool: "true or false", int: "a count", float: "a finite number", dict: "an object"}


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < 1e300 and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    return isinstance(value, kind)
