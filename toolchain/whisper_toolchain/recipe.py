"""Recipes: how each layer is quantised, in terms of the model's own layers, as data.

A recipe is one TOML file a variant with a table for each graph:

    [encoder]
    calibration_rows = 64              # rows of the calibration set that the ranges are taken from
    clip_percentile = 99.995           # of an 8-bit tensor's values; what lies beyond is clipped, at both ends
    sixteen_bit = ["encoder.blocks.*.mlp.2", "encoder.*.residual"]
    matmul_equalization = ["encoder.*.attn.scores"]
    matmul_correction = ["encoder.*.attn.context"]

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
GRAPHS = ("encoder", "decoder")


@dataclass(frozen=True)
class GraphRecipe:
    """How one graph is quantised.

    Attributes:
        calibration_rows: how many rows of the calibration set the ranges are taken from.
        clip_percentile: share of a tensor's values, in percent, that an 8-bit range keeps unclipped at each
            end; 16-bit ranges hold all values.
        sixteen_bit: patterns of layers whose activations and weights have 16 bits; `*` matches dots too.
        matmul_equalization: patterns of attention scores whose keys are centred and balanced with the queries.
        matmul_correction: patterns of products of two activations whose first operand's mean rounding error
            is added back. An attention's many small weights are rounded to zero together; without this
            their part of the sum is lost.
    """

    calibration_rows: int
    clip_percentile: float
    sixteen_bit: tuple[str, ...]
    matmul_equalization: tuple[str, ...]
    matmul_correction: tuple[str, ...]

    def bits(self, layer: str) -> int:
        """8 or 16, for a layer's name."""
        return 16 if _matches(layer, self.sixteen_bit) else 8

    def equalised(self, layer: str) -> bool:
        """Whether an attention's keys are centred and balanced with its queries."""
        return _matches(layer, self.matmul_equalization)

    def corrected(self, layer: str) -> bool:
        """Whether a product's mean rounding error is added back."""
        return _matches(layer, self.matmul_correction)

    def check_layers(self, layers: Iterable[str], where: str) -> None:
        """Raise RecipeError if a pattern names no layer of the graph."""
        known = set(layers)
        for pattern in (*self.sixteen_bit, *self.matmul_equalization, *self.matmul_correction):
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
    overrides = _tables(data.pop("arch", {}), f"{path} [arch]")
    for name, graphs in overrides.items():
        if name not in ARCHITECTURES:
            raise RecipeError(f"{path}: [arch.{name}] is not an architecture: {', '.join(ARCHITECTURES)}")
        unknown = sorted(set(_tables(graphs, f"{path} [arch.{name}]")) - set(GRAPHS))
        if unknown:
            raise RecipeError(f"{path}: [arch.{name}.{unknown[0]}] is neither encoder nor decoder")
    if set(data) != set(GRAPHS):
        raise RecipeError(f"{path}: needs the tables [encoder] and [decoder], has {sorted(data)}")
    tables = _tables(data, str(path))
    encoder, decoder = (
        _graph_recipe({**tables[graph], **overrides.get(arch, {}).get(graph, {})}, f"{path} [{graph}]")
        for graph in GRAPHS
    )
    return Recipe(path.stem, encoder, decoder)


def _tables(value: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise RecipeError(f"{where}: holds a value where a table belongs")
    return value


def _graph_recipe(table: dict[str, Any], where: str) -> GraphRecipe:
    fields = {field.name for field in dataclasses.fields(GraphRecipe)}
    if set(table) != fields:
        wrong = sorted(set(table) ^ fields)
        raise RecipeError(f"{where}: missing or unknown: {', '.join(wrong)}; known: {', '.join(sorted(fields))}")
    rows, percentile = table["calibration_rows"], table["clip_percentile"]
    if type(rows) is not int or rows < 1:
        raise RecipeError(f"{where}: calibration_rows must be a whole number from 1, not {rows!r}")
    if type(percentile) is not float or not 50 < percentile <= 100:
        raise RecipeError(f"{where}: clip_percentile must be above 50.0 and at most 100.0, not {percentile!r}")
    for key in ("sixteen_bit", "matmul_equalization", "matmul_correction"):
        if not isinstance(table[key], list) or not all(isinstance(item, str) for item in table[key]):
            raise RecipeError(f"{where}: {key} must be a list of layer patterns")
    return GraphRecipe(
        rows,
        percentile,
        tuple(table["sixteen_bit"]),
        tuple(table["matmul_equalization"]),
        tuple(table["matmul_correction"]),
    )


def _matches(layer: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(layer, pattern) for pattern in patterns)
