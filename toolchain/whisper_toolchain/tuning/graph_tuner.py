"""Finds few layers of one graph that, with 16 bits, give its output a wanted signal-to-noise ratio.

What a layer costs is measured at the graph's output: with that layer alone at 8 bits and all else in float. Noise of
different layers is nearly independent, so it adds up, and the layers that cost most come first. Were it independent, no
smaller set would do.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import numpy as np
import onnx

from whisper_toolchain import graph_contract
from whisper_toolchain.compilers.prepared_graph import PreparedGraph
from whisper_toolchain.compilers.quantised_graph import quantise
from whisper_toolchain.compilers.ranges import Feeds
from whisper_toolchain.compilers.rows import Rows
from whisper_toolchain.download import Report
from whisper_toolchain.errors import RecipeError
from whisper_toolchain.ort_session import open_session
from whisper_toolchain.recipe import GraphRecipe, can_be_wide, matches
from whisper_toolchain.signal_to_noise import SignalToNoise

_NUMBER = re.compile(r"(?<=\.)(blocks\.|vocabulary\.)\d+")

OUTPUTS = {"encoder": ("features",), "decoder": graph_contract.LOGITS}


class GraphTuner:
    """Tries sets of 16-bit layers on one graph.

    Args:
        prepared: the float graph with its layers and their ranges.
        recipe: everything but the bits is taken from it.
        rows: speech to measure on, that was not used for calibration.
        arch: layers whose 16 bits its compiler cannot do stay at 8.
        report: takes one line of progress.
    """

    def __init__(
        self, prepared: PreparedGraph, recipe: GraphRecipe, rows: Rows, arch: str, report: Report = lambda line: None
    ) -> None:
        self._prepared = prepared
        self._rows = rows
        self._report = report
        names = [layer.name for layer in prepared.layers]
        # What names layers that the emulator leaves in float (residuals, masks) is for the vendor's compiler: it stays.
        self._kept = tuple(pattern for pattern in recipe.sixteen_bit if not any(fnmatchcase(n, pattern) for n in names))
        self._recipe = dataclasses.replace(recipe, emulator=dataclasses.replace(recipe.emulator, sixteen_bit=()))
        self.candidates = [name for name in names if can_be_wide(name, arch)]
        self._outputs = list(OUTPUTS[prepared.name])
        session = open_session(prepared.model.SerializeToString())
        self._reference = [self._used(session.run(self._outputs, feeds), row) for row, feeds in self._feeds()]
        self._known: dict[frozenset[str], float] = {}
        self._order: list[str] = []

    @property
    def name(self) -> str:
        """Of the graph: "encoder" or "decoder"."""
        return self._prepared.name

    def wide_in(self, recipe: GraphRecipe) -> frozenset[str]:
        """The layers that another recipe of this graph gives 16 bits in the emulator."""
        return frozenset(name for name in self.candidates if recipe.emulated_bits(name) == 16)

    def recipe(self, wide: Iterable[str]) -> GraphRecipe:
        """The recipe with 16 bits for these layers, written with patterns where those name them and no other."""
        return dataclasses.replace(self._recipe, sixteen_bit=(*self._kept, *as_patterns(wide, self.candidates)))

    def quantise(self, wide: Iterable[str]) -> onnx.ModelProto:
        """The emulated graph with 16 bits for these layers."""
        return self._prepared.quantise(self.recipe(wide))

    def decibels(self, wide: Iterable[str]) -> float:
        """Signal-to-noise ratio of the graph's output against float, in dB, with 16 bits for these layers."""
        key = frozenset(wide)
        if key not in self._known:
            self._known[key] = self._measure(self.quantise(key))
        return self._known[key]

    def order(self) -> list[str]:
        """The candidates, the one that costs most at 8 bits first."""
        if not self._order:
            self._report(
                f"tune-recipe: {self.name}: measuring what each of {len(self.candidates)} layers costs at 8 bits"
            )
            narrow = self.recipe(())
            costs = {}
            for layer in self._prepared.layers:
                if layer.name in self.candidates:
                    alone = quantise(self._prepared.model, [layer], self._prepared.histograms, narrow)
                    costs[layer.name] = self._measure(alone)
            self._order = sorted(self.candidates, key=lambda name: costs[name])
            self._report(f"tune-recipe: {self.name}: the costliest are {', '.join(self._order[:5])}")
        return self._order

    def smallest(self, target: float) -> frozenset[str]:
        """The first layers of the order, as many as a ratio of `target` dB needs.

        Raises:
            RecipeError: it cannot be reached with 16 bits for every layer that can have them.
        """
        if self.decibels(()) >= target:
            return frozenset()
        order = self.order()
        if self.decibels(order) < target:
            raise RecipeError(
                f"{self.name}: {target:g} dB cannot be reached: with 16 bits for every layer that can have them it is "
                f"{self.decibels(order):.1f} dB, with 8 bits {self.decibels(()):.1f} dB"
            )
        too_few, enough = 0, len(order)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if self.decibels(order[:middle]) >= target:
                enough = middle
            else:
                too_few = middle
        return frozenset(order[:enough])

    def without_needless(self, wide: Iterable[str], target: float) -> frozenset[str]:
        """Leave out each layer, the cheapest first, without which the ratio is still `target` dB."""
        chosen = frozenset(wide)
        for layer in reversed(self.order() if chosen else []):
            if layer in chosen and self.decibels(chosen - {layer}) >= target:
                chosen -= {layer}
        return chosen

    def _measure(self, model: onnx.ModelProto) -> float:
        session = open_session(model.SerializeToString())
        ratio = SignalToNoise()
        for (row, feeds), reference in zip(self._feeds(), self._reference, strict=True):
            ratio.add(reference, self._used(session.run(self._outputs, feeds), row))
        return ratio.decibels

    def _feeds(self) -> Iterable[tuple[int, Feeds]]:
        return enumerate(getattr(self._rows, self.name)())

    def _used(self, outputs: Sequence[np.ndarray], row: int) -> np.ndarray:
        """Of the decoder's outputs, the filled slots."""
        used = outputs if self.name == "encoder" else [part[:, : self._rows.lengths[row]] for part in outputs]
        return np.concatenate(used, axis=-1)


def as_patterns(wide: Iterable[str], layers: Sequence[str]) -> tuple[str, ...]:
    """Name layers with as few patterns as their numbers allow: `a.*.b` where every `a.<number>.b` is among them.

    Args:
        wide: the layers to name.
        layers: all layers there are.
    """
    chosen, patterns = set(wide), []
    for layer in layers:
        if layer not in chosen:
            continue
        general = _NUMBER.sub(r"\1*", layer)
        named = {other for other in layers if matches(other, [general])}
        pattern = general if named <= chosen else layer
        if pattern not in patterns:
            patterns.append(pattern)
    return tuple(patterns)
