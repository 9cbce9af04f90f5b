"""Recipes: how each layer is quantised and how the graphs are compiled, in terms of the model's own layers, as data.

A recipe is one TOML file a variant with a table for each graph:

    [encoder]
    sixteen_bit = ["encoder.blocks.*.mlp.2", "encoder.blocks.*.residual"]   # `*` matches dots too
    sixteen_bit_outputs = false
    matmul_equalization = true
    matmul_correction = true
    separate_additions = true
    layer_norm_decomposition = false
    calibration = { rows = 1024, batch = 8 }
    finetune = { rows = 3340, epochs = 6, learning_rate = 1e-5, batch = 8 }
    compilation = { optimize_for_batch = 1 }
    emulator = { rows = 64, clip_percentile = 99.995, sixteen_bit = [] }

and, where an architecture differs, `[arch.hailo10h.decoder]` with the keys that replace those. Hailo's compiler gets
it as a model script (`compilers.model_script`), the emulator follows what it can (`compilers.emulator`).
"""

import dataclasses
import types
import typing
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

# 16 bits there make the compiler's allocator for Hailo-10H fail (FACTS section 2).
_ATTENTION = ("*attn.scores", "*attn.softmax", "*attn.context")


@dataclass(frozen=True)
class Calibration:
    """Rows of the calibration set that the vendor's compiler takes ranges from, and how many at a time."""

    rows: int
    batch: int

    def check(self) -> str | None:
        """What is wrong with the values, if anything."""
        return None if self.rows >= 1 and self.batch >= 1 else "rows and batch must be at least 1"


@dataclass(frozen=True)
class Finetune:
    """The vendor's fine-tuning of the quantised weights; without `batch`, the compiler's own."""

    rows: int
    epochs: int
    learning_rate: float
    batch: int | None = None

    def check(self) -> str | None:
        """What is wrong with the values, if anything."""
        if self.rows < 1 or self.epochs < 1 or (self.batch is not None and self.batch < 1):
            return "rows, epochs and batch must be at least 1"
        return None if 0 < self.learning_rate < 1 else "learning_rate must be between 0 and 1"


@dataclass(frozen=True)
class Compilation:
    """What the vendor's compiler may spend.

    Attributes:
        optimize_for_batch: inputs at a time that the schedule is made for.
        max_utilization: share of the chip's resources that may be used, up to 1.0; None for the compiler's own.
        slow_and_thorough: True for the highest compiler optimisation level.
    """

    optimize_for_batch: int = 1
    max_utilization: float | None = None
    slow_and_thorough: bool = False

    def check(self) -> str | None:
        """What is wrong with the values, if anything."""
        if self.optimize_for_batch < 1:
            return "optimize_for_batch must be at least 1"
        good = self.max_utilization is None or 0 < self.max_utilization <= 1
        return None if good else "max_utilization must be above 0 and at most 1"


@dataclass(frozen=True)
class Emulation:
    """What only the emulator follows.

    Attributes:
        rows: how many rows of the calibration set the ranges are taken from.
        clip_percentile: share of a tensor's values, in percent, that an 8-bit range keeps unclipped at each
            end; 16-bit ranges hold all values.
        sixteen_bit: further layers with 16 bits. The emulator does not fine-tune; these stand in for that.
    """

    rows: int
    clip_percentile: float
    sixteen_bit: tuple[str, ...] = ()

    def check(self) -> str | None:
        """What is wrong with the values, if anything."""
        if self.rows < 1:
            return "rows must be at least 1"
        return None if 50 < self.clip_percentile <= 100 else "clip_percentile must be above 50 and at most 100"


@dataclass(frozen=True)
class GraphRecipe:
    """How one graph is quantised and compiled.

    Attributes:
        sixteen_bit: patterns of layers whose activations and weights have 16 bits; all others have 8.
        sixteen_bit_outputs: whether the graph's outputs have 16 bits, whatever the layer before them has.
        matmul_equalization: whether an attention's keys are centred and balanced with its queries.
        matmul_correction: whether the rounding error of an attention's weights is compensated. Many small weights
            are rounded to zero together; without this their part of the sum is lost.
        separate_additions: whether residual additions stay layers of their own, so that they can have 16 bits.
        layer_norm_decomposition: whether the vendor's compiler splits layer norms into simpler layers.
        calibration, finetune, compilation: sizes for the vendor's compiler.
        emulator: what only the emulator follows.
    """

    sixteen_bit: tuple[str, ...]
    sixteen_bit_outputs: bool
    matmul_equalization: bool
    matmul_correction: bool
    separate_additions: bool
    layer_norm_decomposition: bool
    calibration: Calibration
    finetune: Finetune
    compilation: Compilation
    emulator: Emulation

    def bits(self, layer: str) -> int:
        """8 or 16, for a layer's name, on the accelerator."""
        return 16 if matches(layer, self.sixteen_bit) else 8

    def emulated_bits(self, layer: str) -> int:
        """8 or 16, for a layer's name, in the emulator."""
        return 16 if matches(layer, (*self.sixteen_bit, *self.emulator.sixteen_bit)) else 8

    def check_layers(self, layers: Iterable[str], where: str) -> None:
        """Raise RecipeError if a pattern names no layer of the graph."""
        unknown = unmatched((*self.sixteen_bit, *self.emulator.sixteen_bit), layers)
        if unknown:
            named = ", ".join(map(repr, unknown))
            raise RecipeError(f"{where}: {named}: names no layer of the graph: correct sixteen_bit in the recipe")

    def check_architecture(self, layers: Iterable[str], arch: str, where: str) -> None:
        """Raise RecipeError if a layer gets 16 bits that the architecture's compiler cannot give it."""
        wide = sorted(layer for layer in layers if self.bits(layer) == 16 and not can_be_wide(layer, arch))
        if wide:
            raise RecipeError(
                f"{where}: {', '.join(wide)}: 16 bits inside an attention make the compiler for hailo10h fail; "
                "take them out of sixteen_bit"
            )


@dataclass(frozen=True)
class Recipe:
    """The recipe of one variant on one architecture."""

    name: str
    encoder: GraphRecipe
    decoder: GraphRecipe

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for digests and the manifest."""
        return dataclasses.asdict(self)


def can_be_wide(layer: str, arch: str) -> bool:
    """Whether an architecture's compiler can give a layer 16 bits."""
    return arch != "hailo10h" or not matches(layer, _ATTENTION)


def matches(layer: str, patterns: Iterable[str]) -> bool:
    """Whether a layer's name fits one of the patterns."""
    return any(fnmatchcase(layer, pattern) for pattern in patterns)


def unmatched(patterns: Iterable[str], layers: Iterable[str]) -> list[str]:
    """The patterns that fit none of the layers' names, in their order."""
    names = set(layers)
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


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
        _read(GraphRecipe, {**tables[graph], **overrides.get(arch, {}).get(graph, {})}, f"{path} [{graph}]")
        for graph in GRAPHS
    )
    return Recipe(path.stem, encoder, decoder)


def _tables(value: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise RecipeError(f"{where}: holds a value where a table belongs")
    return value


def _read(kind: Any, table: Any, where: str) -> Any:
    """Make a dataclass of a table: every key known, every key without a default there, every value of its type."""
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: must be a table")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    wrong = sorted((set(table) - set(fields)) | (required - set(table)))
    if wrong:
        raise RecipeError(f"{where}: missing or unknown: {', '.join(wrong)}; known: {', '.join(sorted(fields))}")
    hints = typing.get_type_hints(kind)
    made = kind(**{name: _value(hints[name], value, f"{where} {name}") for name, value in table.items()})
    problem = made.check() if hasattr(made, "check") else None
    if problem:
        raise RecipeError(f"{where}: {problem}")
    return made


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _read(hint, value, where)
    if isinstance(hint, types.UnionType):  # `int | None`: the key may be absent, but not empty
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise RecipeError(f"{where}: must be a list of layer patterns")
        return tuple(value)
    if type(value) is not hint:  # exactly: True is no number, 1 is no float
        raise RecipeError(f"{where}: must be {_KINDS[hint]}, not {value!r}")
    return value


_KINDS = {int: "a whole number", float: "a number with a point", bool: "true or false"}
