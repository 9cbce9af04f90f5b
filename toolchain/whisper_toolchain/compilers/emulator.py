"""The emulator: the graphs in integer arithmetic for ONNX Runtime, so that all else can run on any machine.

It says what int8 costs in accuracy and lets the runtime be tried without a device. It is not the vendor's
compiler: it quantises the layers and leaves what is between them in float, does not fine-tune, and knows nothing
of the chip's memory, contexts or speed. Its files are called `.emulated.onnx`, with the weights of each beside it in
`.emulated.weights`, and the manifest says so.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import set_external_data
from whisper_runtime.backends.onnxruntime import DECODER, ENCODER

from whisper_toolchain import graph_contract
from whisper_toolchain.calibration import CALIBRATION, HOLDOUT, CalibrationFiles
from whisper_toolchain.compilers import Compiled, CompileJob
from whisper_toolchain.compilers.equalise import equalise
from whisper_toolchain.compilers.quantised_graph import find_layers, quantise, tensors_to_measure
from whisper_toolchain.compilers.ranges import Feeds, collect_histograms
from whisper_toolchain.graph_names import layer_of
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
        rows = Rows(job.calibration, CALIBRATION)
        encoder = _quantise(job, job.export / graph_contract.ENCODER, job.recipe.encoder, rows.encoder)
        encoder_weights = _write(encoder, job.output / ENCODER)
        decoder = _quantise(job, job.export / graph_contract.DECODER, job.recipe.decoder, rows.decoder)
        decoder_weights = _write(decoder, job.output / DECODER)
        return Compiled(ENCODER, DECODER, measure(job), (encoder_weights, decoder_weights))


class Rows:
    """Feeds for the exported graphs from recorded arrays (device layout in, graph layout out)."""

    def __init__(self, folder: Path, files: CalibrationFiles) -> None:
        def load(name: str) -> np.ndarray:
            array: np.ndarray = np.load(folder / name, mmap_mode="r", allow_pickle=False)
            return array

        self._mel = load(files.mel)
        self._features = load(files.features)
        self._embeddings = load(files.token_embeddings)
        self.lengths = load(files.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def encoder(self, limit: int | None = None) -> Iterable[Feeds]:
        """Yield `mel` (1, 80, 1, frames) of each row."""
        for mel in self._mel[:limit]:
            yield {"mel": np.ascontiguousarray(mel.transpose(2, 0, 1))[None]}

    def decoder(self, limit: int | None = None) -> Iterable[Feeds]:
        """Yield `features` (1, frames, d) and `token_embeddings` (1, d, seq, 1) of each row."""
        for features, embeddings in zip(self._features[:limit], self._embeddings[:limit], strict=True):
            yield {
                "features": np.array(features),
                "token_embeddings": np.ascontiguousarray(embeddings.transpose(2, 0, 1))[None],
            }


def _quantise(
    job: CompileJob, path: Path, recipe: GraphRecipe, rows: Callable[[int], Iterable[Feeds]]
) -> onnx.ModelProto:
    model = onnx.load(path)
    known = [layer_of(node.name) for node in model.graph.node]
    recipe.check_layers(known, path.name)
    recipe.check_architecture(known, job.plan.arch, path.name)
    if recipe.matmul_equalization:
        equalise(
            model,
            [layer.name for layer in find_layers(model) if layer.name.endswith(".scores")],
            lambda: rows(recipe.emulator.rows),
        )
    layers = find_layers(model)
    unused = unmatched(recipe.sixteen_bit, (layer.name for layer in layers))
    if unused:
        job.report(f"emulator: {path.name}: {', '.join(unused)} in float, which is finer than the 16 bits asked for")
    if recipe.emulator.sixteen_bit:
        further = ", ".join(recipe.emulator.sixteen_bit)
        job.report(f"emulator: {path.name}: {further} in 16 bits, in place of the fine-tuning that it cannot do")
    wide = sum(recipe.emulated_bits(layer.name) == 16 for layer in layers)
    job.report(f"emulator: {path.name}: {len(layers)} layers, {wide} of them in 16 bits, the others in 8")
    histograms = collect_histograms(model, tensors_to_measure(layers), lambda: rows(recipe.emulator.rows))
    return quantise(model, layers, histograms, recipe)


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
