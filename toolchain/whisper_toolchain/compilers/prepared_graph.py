"""A float graph made ready to be quantised: equalised, its layers found, the ranges of their tensors known."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx

from whisper_toolchain import graph_contract
from whisper_toolchain.compilers import CompileJob
from whisper_toolchain.compilers.equalise import equalise
from whisper_toolchain.compilers.quantised_graph import QuantisedLayer, find_layers, quantise, tensors_to_measure
from whisper_toolchain.compilers.ranges import Feeds, Histogram, collect_histograms
from whisper_toolchain.compilers.rows import Rows
from whisper_toolchain.graph_names import layer_of
from whisper_toolchain.recipe import GraphRecipe

FILES: Mapping[str, str] = {"encoder": graph_contract.ENCODER, "decoder": graph_contract.DECODER}


@dataclass(frozen=True)
class PreparedGraph:
    """What every quantisation of a graph has in common, whatever its layers' bits.

    Attributes:
        name: "encoder" or "decoder".
        model: the float graph. Where the recipe equalises, its queries and keys differ from the exported graph's, and
            its outputs do not.
        layers: what becomes integers.
        histograms: the values of the layers' tensors on the calibration rows.
    """

    name: str
    model: onnx.ModelProto
    layers: list[QuantisedLayer]
    histograms: dict[str, Histogram]

    @classmethod
    def make(cls, job: CompileJob, name: str, rows: Rows) -> "PreparedGraph":
        """Read an exported graph and measure it on the calibration rows.

        Raises:
            RecipeError: the recipe names a layer that does not exist, or asks for what the architecture cannot do.
        """
        recipe: GraphRecipe = getattr(job.recipe, name)
        feeds: Callable[[int], Iterable[Feeds]] = getattr(rows, name)
        model = onnx.load(job.export / FILES[name])
        known = [layer_of(node.name) for node in model.graph.node]
        recipe.check_layers(known, FILES[name])
        recipe.check_architecture(known, job.plan.arch, FILES[name])
        if recipe.matmul_equalization:
            scores = [layer.name for layer in find_layers(model) if layer.name.endswith(".scores")]
            equalise(model, scores, lambda: feeds(recipe.emulator.rows))
        layers = find_layers(model)
        histograms = collect_histograms(model, tensors_to_measure(layers), lambda: feeds(recipe.emulator.rows))
        return cls(name, model, layers, histograms)

    def quantise(self, recipe: GraphRecipe) -> onnx.ModelProto:
        """The quantised graph. Raises CompileError if a range or a weight is not finite."""
        return quantise(self.model, self.layers, self.histograms, recipe)
