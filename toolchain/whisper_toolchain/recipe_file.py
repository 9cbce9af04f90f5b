"""Writes a recipe as the TOML that `recipe.load_recipe` reads."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from whisper_toolchain.recipe import GRAPHS, Recipe

_WIDTH = 120


def recipe_toml(recipe: Recipe, comment: Iterable[str]) -> str:
    """A whole recipe, without overrides for architectures, under lines of comment."""
    lines = [f"# {line}".rstrip() for line in comment]
    for graph in GRAPHS:
        lines += ["", f"[{graph}]"]
        for name, value in dataclasses.asdict(getattr(recipe, graph)).items():
            lines.append(_entry(name, value))
    return "\n".join(lines) + "\n"


def _entry(name: str, value: Any) -> str:
    line = f"{name} = {_value(value)}"
    if len(line) <= _WIDTH or not isinstance(value, tuple):
        return line
    return "\n".join([f"{name} = [", *(f"    {_value(item)}," for item in value), "]"])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # A basic string of TOML: backslash and quote escaped, and no character below U+0020.
        plain = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in plain) + '"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items() if item is not None) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)
