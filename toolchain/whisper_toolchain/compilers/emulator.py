"""The emulator: the graphs in integer arithmetic for ONNX Runtime, so that all else can run on any machine.

It says what int8 costs in accuracy and lets the runtime be tried without a device. It is not the vendor's
compiler: it quantises the layers and leaves what is between them in float, does not fine-tune, and knows nothing
of the chip's memory, contexts or speed. Its files are called `.emulated.onnx`, with the weights of each beside it in
`.emulated.weights`, and the manifest says so.
"""

from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data
from whisper_runtime.backends.onnxruntime import DECODER, ENCODER

from whisper_toolchain import graph_contract
from whisper_toolchain.calibration import CALIBRATION, HOLDOUT
from whisper_toolchain.compilers import Compiled, CompileJob
from whisper_toolchain.compilers.layer_noise import LayerNoise, layer_noise, noisiest
from whisper_toolchain.compilers.prepared_graph import FILES, PreparedGraph
from whisper_toolchain.compilers.rows import Rows
from whisper_toolchain.ort_session import open_session
from whisper_toolchain.recipe import GraphRecipe, unmatched
from whisper_toolchain.signal_to_noise import SignalToNoise

_SMALLEST_WEIGHT = 1024  # bytes; what is smaller stays in the graph, where shapes and axes have to be
_ALIGNMENT = 64  # bytes, of a cache line and of the widest vector


class Emulator:
    """Compiles with ONNX Runtime instead of the vendor's compiler."""

    name = "emulator"
    emulated = True

    @property
    def version(self) -> str:
        """Version of ONNX Runtime."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def compile(self, job: CompileJob) -> Compiled:
        """Write `encoder.emulated.onnx` and `decoder.emulated.onnx`, and measure both on the holdout.

        The weights of each are in a file beside it, which the graph refers to by name: one of the extra files.

        Raises:
            CompileError: the graphs cannot be quantised.
            RecipeError: the recipe names a layer that does not exist.
        """
        rows, holdout = Rows(job.calibration, CALIBRATION), Rows(job.calibration, HOLDOUT)
        noise: list[LayerNoise] = []
        weights = []
        for graph, file in (("encoder", ENCODER), ("decoder", DECODER)):
            recipe: GraphRecipe = getattr(job.recipe, graph)
            prepared = PreparedGraph.make(job, graph, rows)
            _report_layers(job, prepared, recipe)
            quantised = prepared.quantise(recipe)
            noise += layer_noise(prepared, quantised, recipe, holdout)
            weights.append(_write(quantised, job.output / file))
        measurements = {"layer_noise": {"clips": len(holdout), "layers": [each.as_dict() for each in noisiest(noise)]}}
        return Compiled(ENCODER, DECODER, measure(job), tuple(weights), measurements)


def _report_layers(job: CompileJob, prepared: PreparedGraph, recipe: GraphRecipe) -> None:
    file, layers = FILES[prepared.name], [layer.name for layer in prepared.layers]
    unused = unmatched(recipe.sixteen_bit, layers)
    if unused:
        job.report(f"emulator: {file}: {', '.join(unused)} in float, which is finer than the 16 bits asked for")
    if recipe.emulator.sixteen_bit:
        further = ", ".join(recipe.emulator.sixteen_bit)
        job.report(f"emulator: {file}: {further} in 16 bits, in place of the fine-tuning that it cannot do")
    wide = sum(recipe.emulated_bits(layer) == 16 for layer in layers)
    job.report(f"emulator: {file}: {len(layers)} layers, {wide} of them in 16 bits, the others in 8")


def _write(model: onnx.ModelProto, path: Path) -> str:
    """Write a graph, and its weights beside it; take the weights out of `model` and return the name of their file.

    ONNX Runtime maps a file of weights into memory. Weights inside the graph are read and copied, which for tiny takes
    60 MB more at the peak of loading.
    """
    weights = path.with_suffix(".weights")
    # Not by onnx.save, which appends to a file that is there, aligns nothing, and lets nobody else read what it wrote.
    with weights.open("wb") as file:
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) < _SMALLEST_WEIGHT:
                continue
            file.write(bytes(-file.tell() % _ALIGNMENT))
            set_external_data(tensor, weights.name, file.tell(), len(tensor.raw_data))
            file.write(tensor.raw_data)
            tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString(deterministic=True))
    return weights.name


def measure(job: CompileJob) -> dict[str, float]:
    """Signal-to-noise ratios of the compiled graphs against the float ones on the holdout, in dB.

    `features`: the encoder's output. `logits`: the decoder's, on float features, over the filled slots. Both
    graphs are judged alone, so that the worse one shows.
    """
    rows = Rows(job.calibration, HOLDOUT)
    result = {}
    features = SignalToNoise()
    float_session = open_session(job.export / graph_contract.ENCODER)
    session = open_session(job.output / ENCODER)
    for feeds in rows.encoder():
        features.add(float_session.run(["features"], feeds)[0], session.run(["features"], feeds)[0])
    result["features"] = features.decibels
    logits = SignalToNoise()
    float_session = open_session(job.export / graph_contract.DECODER)
    session = open_session(job.output / DECODER)
    for feeds, length in zip(rows.decoder(), rows.lengths, strict=True):
        for reference, quantised in zip(
            float_session.run(list(graph_contract.LOGITS), feeds),
            session.run(list(graph_contract.LOGITS), feeds),
            strict=True,
        ):
            logits.add(reference[0, :length], quantised[0, :length])
    result["logits"] = logits.decibels
    return result
