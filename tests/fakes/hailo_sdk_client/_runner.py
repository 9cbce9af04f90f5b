"""ClientRunner. The order of its states is from FACTS section 2; texts of state errors are documented only."""

import copy
import io
import json
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hef_file
import numpy as np
import onnx

from hailo_sdk_client import _config, _log
from hailo_sdk_client._exceptions import (
    AccelerasValueError,
    BackendAllocatorException,
    BackendRuntimeException,
    BadInputsShape,
    HailoArchiveException,
    InvalidStateException,
    UnsupportedHwArchException,
)
from hailo_sdk_client._parser import Network, Port, translate
from hailo_sdk_client._quantise import (
    Encoding,
    Executor,
    Rounded,
    assemble,
    encoding,
    four_bit_layers,
    round_kernel,
    stream_bits,
)
from hailo_sdk_client._script import Script, parse
from hailo_sdk_client.exposed_definitions import InferenceContext, States

# FACTS: hailo8, hailo8l and hailo8r need 3.x, hailo10h and hailo15h 5.x.
ARCHITECTURES = {"3": ("hailo8", "hailo8l", "hailo8r"), "5": ("hailo10h", "hailo15h")}
HEF_ARCHITECTURES = {**hef_file.ARCHITECTURES, "hailo15h": hef_file.ARCHITECTURES["hailo10h"]}  # FACTS section 3
HEF_VERSIONS = {"3": 2, "5": 3}  # header version by major version of the compiler
DEFAULT_CALIBRATION = 64  # public note, read in the vendor's configuration: calibset_size if the script gives none
MEASURED_ROWS = 8  # rows that are run for the outputs' ranges and the SNR
CHUNK = 64  # rows read at a time from calibration data, which may be a memory map
FLAVOR = "model_optimization_flavor"
CALIBRATION = "model_optimization_config calibration"
CHECKER = "model_optimization_config checker_cfg"
FINETUNE = "post_quantization_optimization finetune"


class Context:
    """What `infer_context` returns; it is usable inside its with-block."""

    def __init__(self, runner: "ClientRunner", kind: InferenceContext) -> None:
        self.runner, self.kind = runner, kind
        self.executor: Executor | None = None

    def __enter__(self) -> "Context":
        weights = self.runner._rounded_weights() if self.kind is InferenceContext.SDK_QUANTIZED else None
        network = self.runner._network
        self.executor = Executor(network, assemble(network, self.runner._weights if weights is None else weights))
        return self

    def __exit__(self, *error: object) -> None:
        self.executor = None


class ClientRunner:
    """Translates, optimises and compiles one network."""

    def __init__(self, hw_arch: str | None = None, har: str | Path | None = None) -> None:
        _config.fault("__init__")
        self._state = States.UNINITIALIZED
        self._hw_arch = hw_arch
        self._network: Network | None = None
        self._weights: dict[str, np.ndarray] = {}
        self._rounded: dict[str, Rounded] = {}
        self._encodings: dict[str, Encoding] = {}  # by layer of an input or output
        self._script = Script("", {}, {})
        if har is not None:
            self.load_har(har)
            if hw_arch not in (None, self._hw_arch):
                raise UnsupportedHwArchException(f"the HAR was made for {self._hw_arch}, not for {hw_arch}")
        self._check_architecture(self._hw_arch)

    @property
    def hw_arch(self) -> str:
        """The architecture compiled for."""
        return self._hw_arch

    @property
    def state(self) -> States:
        """How far the model is."""
        return self._state

    @property
    def model_name(self) -> str:
        """The net name as given: dots are not replaced (the reference flow replaces them itself)."""
        self._require("model_name", *self._translated())
        return self._network.name

    def translate_onnx_model(
        self,
        model: str,
        net_name: str,
        start_node_names: Sequence[str] | None = None,
        end_node_names: Sequence[str] | None = None,
        net_input_shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> tuple[str, dict[str, np.ndarray]]:
        """Read an ONNX file; return the network description as JSON and the native parameters (FACTS: hn, npz)."""
        self._require("translate_onnx_model", States.UNINITIALIZED)
        if not isinstance(model, str):
            raise TypeError(f"model has to be a str, not {type(model).__name__}")
        if not Path(model).is_file():
            raise FileNotFoundError(f"no ONNX model at {model}")
        _log.line(f"Translation started on ONNX model {net_name}")
        source = onnx.load(model)
        _log.line(f"Restored ONNX model {net_name} (completion time: 00:00:00.11)")
        _config.fault("translate_onnx_model")
        names = _config.load().get("dfc_original_names", True)
        network, weights = translate(source, net_name, start_node_names, end_node_names, net_input_shapes, names)
        starts = ", ".join(f"'{port.tensor}': '{port.layer}'" for port in network.inputs)
        _log.line(f"Start nodes mapped from original model: {starts}.")
        ends = ", ".join(f"'{name}'" for port in network.outputs for name in port.original_names)
        _log.line(f"End nodes mapped from original model: {ends}.")
        _log.line(f"Translation completed on ONNX model {net_name} (completion time: 00:00:01.00)")
        self._network, self._weights, self._state = network, weights, States.HAILO_MODEL
        return json.dumps(network.hn), dict(weights)

    def get_hn(self) -> dict[str, Any]:
        """The network description: a dict with "name" and "layers" (reference flow, public model zoo)."""
        self._require("get_hn", *self._translated())
        return copy.deepcopy(self._network.hn)

    def load_model_script(self, model_script: str | Path) -> str:
        """Read a model script, from a file or given as text, in place of the one loaded before.

        Public model zoo: it may come before or after full-precision optimisation. That it is refused later is stricter
        than the real thing, which takes it and lets quantisation commands without effect.
        """
        self._require("load_model_script", States.HAILO_MODEL, States.FP_OPTIMIZED_MODEL)
        if not isinstance(model_script, (str, Path)):
            raise TypeError(f"model_script has to be a path or text, not {type(model_script).__name__}")
        text, origin = str(model_script), "string"
        if isinstance(model_script, Path) or not ("(" in text or "\n" in text):
            text, origin = Path(model_script).read_text(encoding="utf-8"), str(model_script)
        _log.line(f"Loading model script commands to {self._network.name} from {origin}")
        _config.fault("load_model_script")
        self._script = parse(text, list(self._network.hn["layers"]))
        return text

    def optimize_full_precision(self, calib_data: Any = None) -> None:
        """Apply what changes the model but not its precision; SDK_FP_OPTIMIZED is valid from then on."""
        self._require("optimize_full_precision", States.HAILO_MODEL)
        _log.line("Starting Full Precision Optimization")
        _config.fault("optimize_full_precision")
        if calib_data is not None:
            self._checked(calib_data)
        self._state = States.FP_OPTIMIZED_MODEL
        _log.line("Full Precision Optimization is done")

    def optimize(self, calib_data: Any, work_dir: str | Path | None = None) -> None:
        """Quantise with calibration data: a dict of NHWC arrays by input layer, or one array for one input."""
        self._require("optimize", States.HAILO_MODEL, States.FP_OPTIMIZED_MODEL)
        config, script = _config.load(), self._script
        _log.line("Starting Model Optimization")
        for text in config.get("dfc_log", ()):
            _log.line(text)
        _log.line("Model received quantization params from the hn")
        _log.line("MatmulDecompose skipped")
        self._algorithm("Mixed Precision")
        self._algorithm("Statistics Collector", start_only=True)
        data = self._checked(calib_data)
        rows = len(next(iter(data.values())))
        if "optimization_level" not in script.options.get(FLAVOR, {}):
            # Public logs: without a flavor, the level depends on the machine and on the rows.
            _log.line("Reducing optimization level to 0 because there's no available GPU", "warning")
        wanted = script.option(CALIBRATION, "calibset_size", min(rows, DEFAULT_CALIBRATION))
        used = min(wanted, rows)
        _log.line(f"Using dataset with {used} entries for calibration")
        ranges = input_ranges(data, used)
        native = Executor(self._network, assemble(self._network, self._weights))
        measured = list(native.rows(data, min(used, MEASURED_ROWS)))
        del native
        _log.bar("Calibration", used, "entries")
        self._algorithm("Statistics Collector", end_only=True)
        if work_dir is not None:
            Path(work_dir).mkdir(parents=True, exist_ok=True)
            (Path(work_dir) / "statistics.json").write_text(json.dumps(ranges))
        if wanted > rows:
            raise AccelerasValueError(f"calibset_size {wanted} is larger than the dataset, which has {rows} entries")
        for layer, size in four_bit_layers(self._network, self._weights, script).items():
            _log.line(f"Assigning 4bit weights to layer {layer} with {size} parameters")
        rounded = self._round()
        outputs = self._network.outputs
        for index, port in enumerate(outputs):
            values = [results[index] for results in measured]
            ranges[port.layer] = float(np.min(values)), float(np.max(values))
        encodings = {
            port.layer: encoding(*ranges[port.layer], stream_bits(port, script))
            for port in (*self._network.inputs, *outputs)
        }
        self._finetune(rows)
        self._rounded, self._encodings = rounded, encodings
        if script.option(CHECKER, "policy", "disabled") == "enabled":
            self._print_noise(data, measured)
        self._state = States.QUANTIZED_MODEL
        _log.line("Model Optimization is done")

    def compile(self) -> bytes:
        """Return the bytes of a HEF."""
        self._require("compile", States.HAILO_MODEL, States.FP_OPTIMIZED_MODEL, States.QUANTIZED_MODEL)
        if self._state is not States.QUANTIZED_MODEL:
            # Public traceback.
            message = "Model requires quantized weights in order to run on HW, but none were given. "
            message += "Did you forget to quantize?"
            _log.line(f"Failed to compile the model: {message}", "error")
            raise BackendRuntimeException(message)
        self._check_architecture(self._hw_arch)
        major = _config.version().split(".")[0]
        scope = self._network.hn["net_params"]["net_scopes"][0]
        if self._script.option("performance_param", "compiler_optimization_level", "1") != "max":
            _log.line('To achieve optimal performance, set the compiler_optimization_level to "max"')
        _log.line("Starting Hailo allocation and compilation flow")
        _log.line("Trying to compile the network in a single context")
        _log.line("Single context flow failed: Recoverable single context error")
        _log.line("Using Multi-context flow")
        _config.fault("compile")
        self._check_attention()
        for contexts, gain in ((7, "12.2%"), (9, "0.9%")):
            _log.native("[.......................<==>.............] Duration: 00:01:03    \r\n")
            _log.native(f"Found valid partition to {contexts} contexts, Performance improved by {gain}\n")
        _log.line("Successful Mapping (allocation time: 1m 44s)")
        demote = _config.load().get("dfc_demote_outputs", False)
        inputs = [self._stream(port, demote=False) for port in self._network.inputs]
        outputs = [self._stream(port, demote=demote) for port in self._network.outputs]
        _log.line("Building HEF...")
        tensors = {stream.name: stream.onnx_name for stream in (*inputs, *outputs)}
        hef = hef_file.build_hef(
            hw_arch=HEF_ARCHITECTURES[self._hw_arch],
            network_group=scope,
            inputs=inputs,
            outputs=outputs,
            payload=hef_file.graph_payload(assemble(self._network, self._rounded_weights()), tensors),
            version=HEF_VERSIONS[major],
            sdk_version=_config.version(),
            timestamp_ms=time.time_ns() // 1_000_000,
        )
        _log.line("Successful Compilation (compilation time: 5s)")
        self._state = States.COMPILED_MODEL
        return hef

    def infer_context(self, inference_context: InferenceContext) -> Context:
        """A context for `infer`, to be entered with `with`."""
        if not isinstance(inference_context, InferenceContext):
            raise TypeError(f"inference_context has to be an InferenceContext, not {inference_context!r}")
        valid = {
            InferenceContext.SDK_NATIVE: self._translated(),
            InferenceContext.SDK_FP_OPTIMIZED: self._translated()[1:],
            InferenceContext.SDK_QUANTIZED: self._translated()[2:],
            InferenceContext.SDK_HAILO_HW: self._translated()[3:],
        }
        self._require(f"infer_context({inference_context.name})", *valid[inference_context])
        if inference_context is InferenceContext.SDK_HAILO_HW:
            raise BackendRuntimeException("no Hailo device was found on this machine")
        return Context(self, inference_context)

    def infer(self, context: Context, dataset: Any) -> np.ndarray | list[np.ndarray]:
        """Run rows of `dataset`, given as for `optimize`; return float32 (N, H, W, C), a list for several outputs."""
        if not isinstance(context, Context) or context.runner is not self or context.executor is None:
            raise BackendRuntimeException("infer needs the context of this runner, inside its with-block")
        data = self._checked(dataset)
        _config.fault("infer")
        quantised = context.kind is InferenceContext.SDK_QUANTIZED
        rows = len(next(iter(data.values())))
        results = self._run_quantised(context.executor, data, rows) if quantised else context.executor.rows(data, rows)
        outputs = [np.stack(values) for values in zip(*results, strict=True)]
        if _config.load().get("dfc_reverse_outputs", False):
            outputs.reverse()
        _log.bar("Inference", rows, "entries")
        return outputs[0] if len(outputs) == 1 else outputs

    def save_har(self, har_path: str | Path) -> None:
        """Write the model with its state as a tar. Not atomic: an interruption leaves half a file."""
        self._require("save_har", *self._translated())
        network = self._network
        encodings = {layer: vars(value) for layer, value in self._encodings.items()}
        metadata = {"state": self._state.value, "hw_arch": self._hw_arch, "sdk_version": _config.version(),
                    "encodings": encodings, **network.metadata()}  # fmt: skip
        rounded = {f"{part}/{name}": getattr(value, part) for name, value in self._rounded.items()
                   for part in ("integers", "scale")}  # fmt: skip
        with Path(har_path).open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            add(tar, f"{network.name}.metadata.json", json.dumps(metadata).encode())
            add(tar, f"{network.name}.hn", json.dumps(network.hn).encode())
            add(tar, f"{network.name}.onnx", network.graph.SerializeToString())
            file.flush()
            _config.fault("save_har")
            add(tar, f"{network.name}.alls", self._script.text.encode())
            add(tar, f"{network.name}.npz", npz(self._weights))
            add(tar, f"{network.name}.q.npz", npz(rounded))
        _log.line(f"Saved HAR to: {Path(har_path).absolute()}")

    def load_har(self, har_path: str | Path) -> None:
        """Read what `save_har` wrote. Raises HailoArchiveException for anything else."""
        if not Path(har_path).is_file():
            raise FileNotFoundError(f"no HAR at {har_path}")
        _config.fault("load_har")
        try:
            with tarfile.open(har_path) as tar:
                members = {entry.name: tar.extractfile(entry).read() for entry in tar.getmembers()}
            net_name = next(name for name in members if name.endswith(".metadata.json"))[: -len(".metadata.json")]
            metadata = json.loads(members[f"{net_name}.metadata.json"])
            hn = json.loads(members[f"{net_name}.hn"])
            graph = onnx.load_from_string(members[f"{net_name}.onnx"])
            script = members[f"{net_name}.alls"].decode()
            weights = dict(np.load(io.BytesIO(members[f"{net_name}.npz"])))
            rounded = dict(np.load(io.BytesIO(members[f"{net_name}.q.npz"])))
        except Exception as error:
            raise HailoArchiveException(f"{har_path} is not a valid HAR: {error!r}") from error
        self._hw_arch, self._state = metadata["hw_arch"], States(metadata["state"])
        self._network, self._weights = Network.from_metadata(metadata, hn, graph), weights
        self._encodings = {layer: Encoding(**value) for layer, value in metadata["encodings"].items()}
        self._rounded = {name: Rounded(rounded[f"integers/{name}"], rounded[f"scale/{name}"])
                         for name in weights if f"scale/{name}" in rounded}  # fmt: skip
        self._script = parse(script, list(hn["layers"]))

    @staticmethod
    def _translated() -> tuple[States, ...]:
        """The states of a translated model, in their order."""
        return States.HAILO_MODEL, States.FP_OPTIMIZED_MODEL, States.QUANTIZED_MODEL, States.COMPILED_MODEL

    def _require(self, call: str, *states: States) -> None:
        """Raise InvalidStateException unless the runner is in one of `states`."""
        if self._state not in states:
            valid = ", ".join(state.value for state in states)
            raise InvalidStateException(
                f"The execution of {call} is not available under the state: {self._state.value}, valid states: {valid}"
            )

    @staticmethod
    def _check_architecture(hw_arch: str | None) -> None:
        """Raise UnsupportedHwArchException unless this version compiles for `hw_arch`."""
        version = _config.version()
        supported = ARCHITECTURES[version.split(".")[0]]
        if hw_arch not in supported:
            raise UnsupportedHwArchException(
                f"hw_arch {hw_arch!r} is not supported by version {version}; supported are {', '.join(supported)}"
            )

    def _checked(self, dataset: Any) -> dict[str, np.ndarray]:
        """Data by input layer. Raises what public tracebacks show for data that does not fit."""
        ports = self._network.inputs
        if isinstance(dataset, np.ndarray) and len(ports) == 1:
            dataset = {ports[0].layer: dataset}
        if not isinstance(dataset, dict):
            raise TypeError(f"the dataset of {len(ports)} inputs cannot be a {type(dataset).__name__}")
        names = [port.layer for port in ports]
        for name in (*names, *dataset):
            if name not in dataset or name not in names:
                raise KeyError(name)  # public traceback: a KeyError with the layer's name and nothing else
        for port in ports:
            check_array(dataset[port.layer], port)
        if len({len(values) for values in dataset.values()}) != 1:
            counts = {name: len(values) for name, values in dataset.items()}
            raise AccelerasValueError(f"the inputs have different numbers of entries: {counts}")
        return dataset

    def _algorithm(self, name: str, start_only: bool = False, end_only: bool = False) -> None:
        """The log lines of one step of the optimisation."""
        if not end_only:
            _log.line(f"Starting {name}")
        if not start_only:
            _log.line(f"Model Optimization Algorithm {name} is done (completion time is 00:00:00.72)")

    def _round(self) -> dict[str, Rounded]:
        """Round every kernel to the bits that the script gives its layer."""
        compressed = four_bit_layers(self._network, self._weights, self._script)
        rounded = {}
        for kernel in self._network.kernels:
            bits = 4 if kernel.layer in compressed else self._script.bits(kernel.layer)[1]
            rounded[kernel.tensor] = round_kernel(self._weights[kernel.tensor], kernel.axis, bits)
        return rounded

    def _rounded_weights(self) -> dict[str, np.ndarray]:
        return {name: value.values() for name, value in self._rounded.items()}

    def _finetune(self, rows: int) -> None:
        """Fine-tuning: no training here, but its checks, its output, and its way with Ctrl-C.

        Public log: SIGINT ends the training, and the optimisation goes on as if nothing had happened.
        """
        if self._script.option(FINETUNE, "policy", "disabled") != "enabled":
            _log.line("Fine Tune skipped")
            _config.fault("optimize")
            return
        size = self._script.option(FINETUNE, "dataset_size", min(rows, 1024))
        if size > rows:
            raise AccelerasValueError(f"finetune: dataset_size {size} is larger than the dataset of {rows} entries")
        self._algorithm("Quantization-Aware Fine-Tuning", start_only=True)
        _log.line(f"Using dataset with {size} entries for finetune")
        try:
            _config.fault("optimize")
            batch = self._script.option(FINETUNE, "batch_size", 8)
            _log.epochs(self._script.option(FINETUNE, "epochs", 4), -(-size // batch), self._network.outputs[0].stream)
        except KeyboardInterrupt:
            _log.line("Training cut by the user, proceed at your own peril", "warning")
        self._algorithm("Quantization-Aware Fine-Tuning", end_only=True)

    def _run_quantised(self, executor: Executor, data: Mapping[str, np.ndarray], rows: int) -> list[list[np.ndarray]]:
        """Rows through the rounded graph, with the streams' rounding of inputs and outputs."""
        results = []
        for row in range(rows):
            feed = {name: self._encodings[name].round(values[row : row + 1]) for name, values in data.items()}
            (outputs,) = executor.rows(feed, 1)
            pairs = zip(outputs, self._network.outputs, strict=True)
            results.append([self._encodings[port.layer].round(values) for values, port in pairs])
        return results

    def _print_noise(self, data: Mapping[str, np.ndarray], native: Sequence[Sequence[np.ndarray]]) -> None:
        """The SNR lines of the checker; the form is from public logs, tabs included."""
        self._algorithm("Layer Noise Analysis", start_only=True)
        executor = Executor(self._network, assemble(self._network, self._rounded_weights()))
        rounded = self._run_quantised(executor, data, len(native))
        _log.bar("Full Quant Analysis", len(native), "iterations")
        self._algorithm("Layer Noise Analysis", end_only=True)
        _log.line("Output layers signal-to-noise ratio (SNR): measures the quantization noise (higher is better)")
        for index, port in enumerate(self._network.outputs):
            signal = np.stack([values[index] for values in native]).astype(np.float64)
            noise = signal - np.stack([values[index] for values in rounded])
            snr = 10 * np.log10(np.sum(signal**2) / max(np.sum(noise**2), 1e-30))
            _log.line(f"\t{port.layer} SNR:\t{snr:.4g} dB")

    def _check_attention(self) -> None:
        """FACTS: 16 bits in an attention crash the allocator of the 10H. The text is that of other failures."""
        layers = self._network.hn["layers"]
        wide = [
            name
            for name, precision in self._script.precision.items()
            if precision == "a16_w16" and layers[name]["type"] in ("softmax", "matmul")
        ]
        if wide and self._hw_arch in ARCHITECTURES["5"]:
            message = f"Compilation failed: allocator failed: No successful assignments: {wide[0]} errors: "
            message += "Agent infeasible"
            _log.line("Mapping Failed (allocation time: 1m 44s)", "error")
            _log.line("Failed to produce compiled graph", "error")
            _log.line(f"BackendAllocatorException: {message}", "error")
            raise BackendAllocatorException(message)

    def _stream(self, port: Port, *, demote: bool) -> hef_file.FakeStream:
        """A stream of the HEF."""
        code = self._encodings[port.layer]
        bits = 8 if demote and code.zero_point > 255 else code.bits
        return hef_file.FakeStream(
            port.stream, port.shape, bits // 8, code.zero_point, code.scale, port.original_names, port.tensor
        )


def check_array(values: Any, port: Port) -> None:
    """Raise unless `values` are rows that fit the input layer."""
    if not isinstance(values, np.ndarray):
        raise TypeError(f"the data of {port.layer} cannot be a {type(values).__name__}")
    if values.shape[1:] != port.shape:
        # Public traceback, text included.
        raise BadInputsShape(
            f"Data shape {values.shape[1:]} for layer {port.layer} doesn't match network's input shape {port.shape}"
        )
    if values.dtype not in (np.float32, np.uint8):
        raise AccelerasValueError(f"the data of {port.layer} is {values.dtype}, not float32 or uint8")
    if not len(values):
        raise AccelerasValueError(f"the data of {port.layer} has no entries")


def input_ranges(data: Mapping[str, np.ndarray], used: int) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each input's first `used` rows. Raises AccelerasValueError for NaN or infinity."""
    ranges = {}
    for name, values in data.items():
        for start in range(0, len(values), CHUNK):
            if not np.isfinite(values[start : start + CHUNK]).all():
                raise AccelerasValueError(f"the data of {name} holds values that are not finite")
        chunks = [values[start : min(start + CHUNK, used)] for start in range(0, used, CHUNK)]
        ranges[name] = float(min(chunk.min() for chunk in chunks)), float(max(chunk.max() for chunk in chunks))
    return ranges


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to a tar."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
