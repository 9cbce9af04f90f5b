"""Recipes: how each layer is quantised, in terms of the model's own layers, as data.

A recipe is one TOML file a variant with a table for each graph:

    [encoder]
    calibration_rows = 64              # rows of the calibration set that the ranges are taken from
    clip = "mse"                       # how a range is chosen from what was seen: "mse" or a percentile
    sixteen_bit = ["encoder.blocks.*.mlp.2", "encoder.*.residual"]
    eight_bit = ["encoder.blocks.0.attn.residual"]     # taken out of sixteen_bit again

and, where an architecture differs, `[arch.hailo10h.decoder]` with the keys that replace those.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from whisper_toolchain.errors import RecipeError
from whisper_toolchain.shape_plan import ARCHITECTURES
from whisper_toolchain.toml import read_toml

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class GraphRecipe:
    """How one graph is quantised.

    Attributes:
        calibration_rows: how many rows of the calibration set the ranges are taken from.
        clip: "mse" for the range with the least squared error, or a percentile such as 99.999.
        sixteen_bit: patterns of layers whose activations and weights have 16 bits; `*` matches dots too.
        eight_bit: patterns of layers that stay at 8 bits though `sixteen_bit` names them.
    """

    calibration_rows: int
    clip: str | float
    sixteen_bit: tuple[str, ...]
    eight_bit: tuple[str, ...] = ()

    def bits(self, layer: str) -> int:
        """8 or 16, for a layer's name."""
        wide = _matches(layer, self.sixteen_bit) and not _matches(layer, self.eight_bit)
        return 16 if wide else 8

    def check_layers(self, layers: Iterable[str], where: str) -> None:
        """Raise RecipeError if a pattern names no layer of the graph."""
        known = set(layers)
        for pattern in (*self.sixteen_bit, *self.eight_bit):
            if not any(fnmatchcase(layer, pattern) for layer in known):
                raise RecipeError(f"{where}: '{pattern}' names no layer of the graph")


@dataclass(frozen=True)
class Recipe:
    """The recipe of one variant on one architecture."""

    name: str
    encoder: GraphRecipe
    decoder: GraphRecipe

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for digests and the manifest."""
        return dataclasses.asdict(self)


def load_recipe(variant: str, arch: str, path: Path | None = None) -> Recipe:
    """Read the recipe of a variant, with the architecture's overrides applied.

    Args:
        variant: such as "tiny.en".
        arch: such as "hailo8".
        path: a recipe of the user's own; None for the one that is part of the toolchain.

    Raises:
        ToolchainError: the file is missing or not TOML.
        RecipeError: a key is missing, unknown, or has a value of the wrong kind.
    """
    path = RECIPES / f"{variant}.toml" if path is None else path
    data = read_toml(path)
    overrides = data.pop("arch", {})
    for name in overrides:
        if name not in ARCHITECTURES:
            raise RecipeError(f"{path}: [arch.{name}] is not an architecture: {', '.join(ARCHITECTURES)}")
    if set(data) != {"encoder", "decoder"}:
        raise RecipeError(f"{path}: needs the tables [encoder] and [decoder], has {sorted(data)}")
    graphs = {
        graph: _graph_recipe({**data[graph], **overrides.get(arch, {}).get(graph, {})}, f"{path} [{graph}]")
        for graph in ("encoder", "decoder")
    }
    return Recipe(path.stem, graphs["encoder"], graphs["decoder"])


def _graph_recipe(table: dict[str, Any], where: str) -> GraphRecipe:
    fields = {field.name for field in dataclasses.fields(GraphRecipe)}
    for key in table:
        if key not in fields:
            raise RecipeError(f"{where}: unknown key '{key}'; known are {', '.join(sorted(fields))}")
    for key in ("calibration_rows", "clip", "sixteen_bit"):
        if key not in table:
            raise RecipeError(f"{where}: '{key}' is missing")
    rows, clip = table["calibration_rows"], table["clip"]
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise RecipeError(f"{where}: calibration_rows must be a whole number from 1, not {rows!r}")
    if clip != "mse" and not (isinstance(clip, float) and 50 < clip <= 100):
        raise RecipeError(f'{where}: clip must be "mse" or a percentile above 50.0, not {clip!r}')
    patterns = {}
    for key in ("sixteen_bit", "eight_bit"):
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise RecipeError(f"{where}: {key} must be a list of layer patterns")
        patterns[key] = tuple(value)
    return GraphRecipe(rows, clip, patterns["sixteen_bit"], patterns["eight_bit"])


def _matches(layer: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(layer, pattern) for pattern in patterns)
