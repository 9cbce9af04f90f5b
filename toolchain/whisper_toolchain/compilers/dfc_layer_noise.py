"""Noise by layer with Hailo's compiler: its float network against its quantised one, at every layer's result.

The compiler gives values of a network's outputs only. So each graph is parsed once more, with the result of every layer
as a further output ("probed"), quantised by the same recipe on the same arrays, and run on held-out windows in float
and quantised. That takes a second optimisation, so it is no part of a compilation, and it has a work folder of its own:

    encoder.translated.har  encoder.network.json    the probed network and its layers
    encoder.native.npz                              its outputs for one window, by which they are told apart
    encoder.alls                                    the recipe, rendered for the probed network
    encoder.optimised.har                           quantised
    encoder.layers.json                             sums of squares, of which the ratios are made
    encoder.<step>.log      encoder.<step>.json     as in a compilation (`compilers.dfc`)

What to know of the figures:

- They are from before fine-tuning, which takes most of an optimisation's hours and is left out here.
- A ratio is of all the noise up to the layer. What the layer adds itself cannot be told: nothing can be fed in between.
- Further outputs keep the compiler from merging layers. A query, key and value that are one layer in the compiled
  network, and get 16 bits together, stand alone here. Of a layer with an activation, the result behind that is read.
- What the compiler rescales without loss between two layers, such as an equalised query and key, counts as noise if it
  does so in front of an output. Nobody outside knows whether it does.

Whether the real compiler takes an end node that has successors, with other end nodes among them, was not tried: this
was tested with a strict fake only.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from whisper_toolchain.calibration import HOLDOUT
from whisper_toolchain.compilers import CompileJob
from whisper_toolchain.compilers.dfc import DataflowCompiler, GraphArrays, GraphSteps
from whisper_toolchain.compilers.dfc_checks import VendorTools
from whisper_toolchain.compilers.inner_tensors import with_outputs
from whisper_toolchain.compilers.layer_noise import LayerNoise, finite, noisiest
from whisper_toolchain.compilers.probes import Place, find_probes, tell_apart
from whisper_toolchain.compilers.rows import Rows
from whisper_toolchain.errors import CompileError
from whisper_toolchain.ort_session import open_session
from whisper_toolchain.recipe import GRAPHS, GraphRecipe
from whisper_toolchain.signal_to_noise import decibels

MOST_WINDOWS = 16  # which bounds the time, and the disk for float results that wait: 100 MB a window for base's encoder


def dfc_layer_noise(compiler: DataflowCompiler, job: CompileJob) -> dict[str, Any]:
    """Measure every layer of both graphs.

    Args:
        compiler: Hailo's.
        job: its `output` is not used; `work` keeps the steps, as in a compilation, and must not be a compilation's.

    Returns:
        The list as plain values: "compiler", "clips" and "layers", as `LayerNoise.as_dict`, the noisiest first. A layer
        whose result was not found among the outputs has no figure (None).

    Raises:
        CompileError: a check before the start or a step failed, or the compiler does not parse the probed graph.
        RecipeError: the recipe does not fit the parsed networks.
    """
    with compiler.at_work(job) as (job, tools):
        graphs = [ProbedGraph(job, tools, graph) for graph in GRAPHS]
        # What can fail soon does so before the first long step.
        for each in graphs:
            each.probe()
            each.render()
        noise: list[LayerNoise] = []
        for each in graphs:
            each.optimise()
            noise += each.measure_layers()
        return {
            "compiler": compiler.name,
            "clips": graphs[0].windows,
            "layers": [each.as_dict() for each in noisiest(noise, "snr_db")],
        }


class ProbedGraph(GraphSteps):
    """One graph, with every layer's result as an output, on its way through the steps.

    Attributes:
        windows: how many held-out windows are measured.
    """

    def __init__(self, job: CompileJob, tools: VendorTools, graph: str) -> None:
        super().__init__(job, tools, graph)
        self._probes = find_probes(self._model, graph)
        self._arrays = GraphArrays.of(job.calibration, graph, holdout=True)
        self._places: Mapping[str, Place] = {}
        self.windows = min(self._arrays.rows, MOST_WINDOWS)

    def probe(self) -> None:
        """Parse the graph with its layers' results as further outputs, and find out which output is which.

        Raises:
            CompileError: the compiler does not parse it, or no output is like any layer's result.
        """
        try:
            self.translate([probe.node for probe in self._probes])
        except CompileError as error:
            raise CompileError(
                f"dfc: {self._graph}: no figures by layer: the compiler did not parse the graph with inner layers as "
                f"further end nodes, which it may not allow; the compilation itself is not touched; {error}"
            ) from error
        self._step(
            "look",
            {"translate": self._keys["translate"]} | self._arrays.digests(),
            {"native": "native.npz"},
            {
                "translated": str(self._file("translated.har")),
                "arrays": [str(path.absolute()) for path in self._arrays.inputs],
            },
        )
        with np.load(self._file("native.npz"), allow_pickle=False) as file:
            outputs = [file[f"arr_{number}"] for number in range(len(file.files))]
        self._places = tell_apart(self._probes, self._references(), outputs)
        if not self._places:
            raise CompileError(
                f"dfc: {self._graph}: no figures by layer: none of the {len(outputs)} outputs of the parsed network is "
                "like a layer's result in the exported graph"
            )
        for probe in self._probes:
            if probe.layer not in self._places:
                self._report(f"{probe.layer}: no figure, for no output of the parsed network is like its result")

    def _references(self) -> dict[str, np.ndarray]:
        """The probed tensors' float values for the first held-out window."""
        names = [probe.tensor for probe in self._probes]
        feeds = next(iter(getattr(Rows(self._job.calibration, HOLDOUT), self._graph)(1)))
        session = open_session(with_outputs(self._model, names).SerializeToString())
        return dict(zip(names, session.run(names, feeds), strict=True))

    def render(self) -> None:
        """Write the model script for the probed network, without fine-tuning."""
        own = {value.name for value in self._model.graph.output}
        makers = {node.name for node in self._model.graph.node if not own.isdisjoint(node.output)}
        self._render(with_outputs(self._model, [probe.tensor for probe in self._probes]), own | makers)

    def measure_layers(self) -> list[LayerNoise]:
        """Measure the outputs that are layers' results on held-out windows; of the decoder, only filled slots count."""
        wanted = [{"output": place.output, "slots": place.slots} for place in self._places.values()]
        self._step(
            "measure_layers",
            {"optimise": self._keys["optimise"], "rows": self.windows, "wanted": wanted} | self._arrays.digests(),
            {},
            {
                "optimised": str(self._file("optimised.har")),
                "arrays": [str(path.absolute()) for path in self._arrays.inputs],
                "lengths": None if self._arrays.lengths is None else str(self._arrays.lengths.absolute()),
                "rows": self.windows,
                "wanted": wanted,
                "work_dir": str(self._partial / "work"),
            },
            "layers.json",
        )
        sums = json.loads(self._file("layers.json").read_text(encoding="utf-8"))["sums"]
        ratios = {layer: finite(decibels(*each)) for layer, each in zip(self._places, sums, strict=True)}
        recipe: GraphRecipe = getattr(self._job.recipe, self._graph)
        return [
            LayerNoise(self._graph, probe.layer, recipe.bits(probe.layer), None, ratios.get(probe.layer))
            for probe in self._probes
        ]
