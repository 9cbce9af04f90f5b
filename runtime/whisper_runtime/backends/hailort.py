"""Runs compiled bundles on a Hailo device through HailoRT, 4.20 or later.

Numbers stay in the device's own format for as long as they can: the encoder's output goes into the decoder as it is,
and of the decoder's output only the rows asked for become floats.

HailoRT checks neither type nor shape of a buffer, and its job.wait() also returns for a job that has failed. Both are
seen to here.
"""

import contextlib
import logging
import re
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whisper_runtime import watchdog
from whisper_runtime.backends.device_reader import DeviceReader
from whisper_runtime.backends.hailort_errors import HailoErrors, import_hailort
from whisper_runtime.bundle import Bundle
from whisper_runtime.closing import Closing
from whisper_runtime.errors import BackendError, HefError, one_line
from whisper_runtime.hailort_status import driver_of
from whisper_runtime.hef import Hef, check_outputs, read_hef
from whisper_runtime.manifest import Manifest
from whisper_runtime.sensors import Sensors

ENCODER = "encoder.hef"
DECODER = "decoder.hef"

# The slowest job takes 42 ms (decoder on Hailo-8L). The rest is for other programs on a shared device, which serves
# them in turn: who has waited this long waits for nothing. HailoRT may take twice as long before it gives up.
JOB_TIMEOUT_MS = 5000
# HailoRT itself gives a job that is stuck 10 s when its model is released.
RELEASE_SECONDS = 12.0
CALLBACK_SECONDS = 1.0  # a job that was given up may still end by itself

# For `watchdog`, while HailoRT keeps hold of Python; generous, since the process is ended.
OPENING_LIMIT = 60.0
RELEASE_LIMIT = 15.0

SHARED_GROUP = "SHARED"  # any name would do; programs share a device if they use the same one

_PAGE = 4096
# A logits output's number in the names of its ONNX nodes, such as `decoder.vocabulary.2/MatMul` or `logits_2`.
_PART = re.compile(r"(?:^|[./])(?:vocabulary\.|logits_)(\d+)(?:$|/)")

_log = logging.getLogger(__name__)


class HailoRTBackend(Closing):
    """The two graphs of a bundle on a Hailo device, for one thread.

    Features hold the buffers that they are in, and give them back for another window once nobody keeps them. Once a
    job has failed or timed out, its graph is not used any more and later calls raise at once.

    `encode`, `decode` and `read_features` wait for a limited time. Opening and `close` cannot: HailoRT's Python
    package keeps hold of the whole interpreter while it opens, configures and releases a device. If its driver hangs
    there, every thread of the process hangs. Within `watchdog.watching` the process is ended then, as a command line
    should be.

    Args:
        encoder, decoder: the checked HEFs. Without a decoder the device only encodes: that takes less of its memory,
            and it has no graph to switch to.
        manifest: of their bundle.
        share_device: let other programs that ask for it too use the device at the same time.

    Raises:
        NotInstalledError: HailoRT's Python package is missing or broken.
        HefError: a HEF has other streams than the manifest says, or HailoRT refuses it.
        DriverError, NoDeviceError, DeviceInUseError, WrongArchitectureError: the device cannot be used.
        BackendError: HailoRT fails in another way.
    """

    lookahead = 1  # one window is decoded while the next one is encoded

    def __init__(self, encoder: Hef, decoder: Hef | None, manifest: Manifest, share_device: bool = False) -> None:
        hailo = import_hailort()
        errors = HailoErrors(hailo, manifest, share_device)
        streams = _read_streams(hailo, errors, encoder)
        (mel,) = _by_shape(encoder, streams.inputs, mel=(1, 100 * manifest.seconds, manifest.dims["n_mels"]))
        (self._encoded,) = _by_shape(encoder, streams.outputs, features=_feature_shape(manifest))
        self._mel = _as_float(mel)
        self._decoder = None if decoder is None else _Decoder(hailo, errors, decoder, manifest, self._encoded)
        self._windows = 0

        self._version = str(hailo.__version__)
        self._device: _Device | None = None
        try:
            with self._watched("opening the device", OPENING_LIMIT):
                self._device = device = _Device(hailo, errors, share_device)
                self._encoder = device.load(encoder, "encoder", [self._mel], [self._encoded])
                if self._decoder is not None:
                    self._decoder.load(device)
                # As many as one recording needs, but for second looks at a window and for its parts.
                self._free = [self._new_set() for _ in range(1 + self.lookahead)]
        except BaseException:
            self.close()
            raise

    @classmethod
    def for_bundle(cls, bundle: Bundle, share_device: bool = False, with_decoder: bool = True) -> "HailoRTBackend":
        """Open the compiled graphs of a verified bundle. The HEFs are checked before the device is touched.

        Args:
            bundle: the bundle.
            share_device: see the class.
            with_decoder: False leaves the decoder off the device.

        Raises:
            HefError: a HEF is damaged, for another architecture than the bundle, or has a dead output.
            BackendError: see the class.
        """
        encoder = _checked_hef(bundle, ENCODER)
        decoder = _checked_hef(bundle, DECODER) if with_decoder else None
        return cls(encoder, decoder, bundle.manifest, share_device)

    def encode(self, mel: np.ndarray) -> "_Features":
        """Start encoding mel (1, 100*s, 80) float32.

        `decode` and `read_features` wait for the features, and raise if that fails.

        Waits for the encoding of the window before, if that is still under way.

        Raises:
            BackendError: a mel of the wrong type or shape or with NaN or infinity, a backend that is closed or has
                failed, or HailoRT does not take the job.
        """
        self._check_usable(self._encoder, *([] if self._decoder is None else [self._decoder.model]))
        _check("mel", mel, self._mel)
        # Done long ago, but for a window that nobody has decoded yet. A job that is refused would end it with itself.
        # And a free buffer may belong to features that were dropped while they were encoded.
        self._encoder.drain()
        buffers = self._free.pop() if self._free else self._new_set()
        np.copyto(buffers.mel, mel)
        self._windows += 1
        buffers.window = self._windows
        features = _Features(self, buffers, self._encoder.submit(buffers.encoder_bindings))
        weakref.finalize(features, self._free.append, buffers).atexit = False
        return features

    def decode(self, features: "_Features", token_embeddings: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        """Encoded features and embeddings (n, 1, d) float32 -> logits (len(rows), vocab) float32.

        Raises:
            DeviceTimeoutError: the device did not answer in time.
            BackendError: features from elsewhere, embeddings of the wrong type or shape or with NaN or infinity, a row
                that is not a slot, a backend that is closed, has failed or has no decoder, HailoRT fails, or an
                output is dead.
        """
        if self._decoder is None:
            raise BackendError("the decoder is not on the device: open the bundle with its decoder")
        self._check_usable(self._decoder.model)
        buffers = self._buffers_of(features)
        return self._decoder.run(buffers, features.job, token_embeddings, list(rows))

    def read_features(self, features: "_Features") -> np.ndarray:
        """Wait for encoded features and return them as numbers: (1, 50*s, d) float32, the caller's own.

        Raises:
            DeviceTimeoutError: the device did not answer in time.
            BackendError: features from elsewhere, a backend that is closed, the encoding failed, or the output is
                dead.
        """
        self._check_usable()
        buffers = self._buffers_of(features)
        features.job.wait()
        values = np.empty(self._encoded.shape, np.float32)
        _dequantise(self._encoded, buffers.encoded, values, "encoder", "value")
        return values

    def sensors(self) -> Sensors:
        """Start to read the device's power and temperature. To be closed before the backend.

        What cannot be read is in its `reason`. Raises BackendError if the backend is closed.
        """
        self._check_usable()
        assert self._device is not None  # noqa: S101 - as checked
        with self._watched("opening the device's sensors", OPENING_LIMIT):
            return Sensors(self._device.open_control)

    def close(self) -> None:
        """Give the device back. Does not raise.

        A job that is stuck is left behind after `RELEASE_SECONDS`. If HailoRT hangs in the release of the device
        itself, so does this: see the class.
        """
        device, self._device = self._device, None
        if device is None:
            return
        thread = threading.Thread(target=device.release, name="hailort-release", daemon=True)
        del device  # the thread's is then the last reference
        with self._watched("giving the device back", RELEASE_LIMIT):
            thread.start()
            thread.join(RELEASE_SECONDS)
        if thread.is_alive():
            _log.warning(
                "HailoRT did not release the device within %g s: it is free once this process has ended",
                RELEASE_SECONDS,
            )

    def _watched(self, doing: str, seconds: float) -> contextlib.AbstractContextManager[None]:
        driver = driver_of(self._version)
        return watchdog.time_limit(
            seconds,
            f"whisper-runtime: {doing}: HailoRT did not return within {seconds:g} s, so this process is ended: reload "
            f"the driver ('sudo modprobe -r {driver} && sudo modprobe {driver}') or restart the machine, then run "
            "'whisper-runtime doctor'",
        )

    def _check_usable(self, *models: "_Model") -> None:
        if self._device is None:
            raise BackendError("the backend is closed: open the bundle again")
        for model in models:
            model.check_usable()

    def _buffers_of(self, features: "_Features") -> "_BufferSet":
        if not isinstance(features, _Features) or features.backend is not self:
            raise BackendError("features: not made by this backend's encode")
        return features.buffers

    def _new_set(self) -> "_BufferSet":
        mel, encoded = _allocate(self._mel), _allocate(self._encoded)
        bindings = self._encoder.bind([mel], [encoded])
        return _BufferSet(mel, encoded, bindings, None if self._decoder is None else self._decoder.bind(encoded))


class _Decoder:
    """The decoder's graph with its buffers.

    Args:
        hailo: the vendor's package.
        errors: translates its exceptions.
        hef: the checked HEF.
        manifest: of its bundle.
        encoded: the features as the encoder writes them.
    """

    def __init__(self, hailo: Any, errors: HailoErrors, hef: Hef, manifest: Manifest, encoded: "Stream") -> None:
        streams = _read_streams(hailo, errors, hef)
        shape = (manifest.sequence, 1, manifest.dims["n_text_state"])
        self._read, token_embeddings = _by_shape(
            hef, streams.inputs, features=_feature_shape(manifest), token_embeddings=shape
        )
        self._token_embeddings = _as_float(token_embeddings)
        self._logits = _order_logits(hef, streams, manifest)
        self._embeddings = _allocate(self._token_embeddings)
        self._outputs = [_allocate(stream) for stream in self._logits]
        self._table = requantisation_table(encoded, self._read)
        self._requantised = _allocate(self._read)
        self._requantised_window = 0
        self._hef = hef
        self.model: _Model

    def load(self, device: "_Device") -> None:
        """Configure the graph. Raises BackendError or HefError."""
        inputs = [self._read, self._token_embeddings]
        self.model = device.load(self._hef, "decoder", inputs, self._logits)

    def bind(self, encoded: np.ndarray) -> Any:
        """Bindings for features that the encoder writes into a buffer. Raises BackendError."""
        read = encoded if self._table is None else self._requantised
        return self.model.bind([read, self._embeddings], self._outputs)

    def run(self, buffers: "_BufferSet", encoding: "_Job", embeddings: np.ndarray, rows: list[int]) -> np.ndarray:
        """Logits of some rows, once the features are there. Raises BackendError."""
        _check("token_embeddings", embeddings, self._token_embeddings)
        slots = self._token_embeddings.shape[0]
        if not all(0 <= row < slots for row in rows):
            raise BackendError(f"rows {rows}: the decoder has {slots} slots")
        encoding.wait()
        self.model.drain()  # a call that was interrupted may have left a job that uses the buffers written below
        if self._table is not None and self._requantised_window != buffers.window:
            # `clip` never applies, every code is in the table; the default would go through a copy of the result.
            np.take(self._table, buffers.encoded, out=self._requantised, mode="clip")
            self._requantised_window = buffers.window
        np.copyto(self._embeddings, embeddings)
        self.model.submit(buffers.decoder_bindings).wait()
        logits = np.empty((len(rows), sum(stream.shape[2] for stream in self._logits)), np.float32)
        start = 0
        for stream, output in zip(self._logits, self._outputs, strict=True):
            end = start + stream.shape[2]
            for target, row in zip(logits[:, start:end], rows, strict=True):
                _dequantise(stream, output[0, row], target, "decoder", "token")
            start = end
        return logits


def _dequantise(stream: "Stream", stored: np.ndarray, target: np.ndarray, graph: str, what: str) -> None:
    """Write the numbers that a stream's codes stand for. Raises BackendError if all of them are the same."""
    codes = stored.reshape(-1)
    # Two values tell nearly always, so that the others are rarely looked at.
    if codes[0] == codes[-1] and (codes == codes[0]).all():
        raise BackendError(
            f"running the {graph}: the device returned a constant, {codes[0]} for every {what} of {stream.name}: dead "
            "output: run 'whisper-runtime doctor'; if it finds nothing, compile the bundle again"
        )
    np.subtract(stored, stream.zero_point, out=target, dtype=np.float32)
    target *= np.float32(stream.scale)


# Streams


@dataclass(frozen=True)
class Stream:
    """An input or output as we exchange it with HailoRT: value = (stored - zero_point) * scale."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    zero_point: float
    scale: float


@dataclass(frozen=True)
class _Streams:
    """All streams of a HEF in the device's own format; outputs in HailoRT's order, with the names they came from."""

    inputs: list[Stream]
    outputs: list[Stream]
    original_names: list[list[str]]


def _checked_hef(bundle: Bundle, name: str) -> Hef:
    hef = read_hef(bundle.folder / name)
    if hef.architecture != bundle.manifest.arch:
        raise HefError(
            f"{hef.path}: compiled for {hef.architecture}, but its bundle is for {bundle.manifest.arch}: "
            "build the bundle again"
        )
    check_outputs(hef)
    return hef


def _read_streams(hailo: Any, errors: HailoErrors, hef: Hef) -> _Streams:
    """What HailoRT makes of a HEF; needs no device."""
    with errors.during(f"reading {hef.path}", hef):
        opened = hailo.HEF(str(hef.path))
        inputs = list(opened.get_input_vstream_infos())
        outputs = {str(info.name): info for info in opened.get_output_vstream_infos()}
        order = [str(name) for name in opened.get_sorted_output_names()]
        original = [list(opened.get_original_names_from_vstream_name(name)) for name in order]
    if sorted(order) != sorted(outputs):
        raise HefError(f"{hef.path}: HailoRT orders the outputs {order}, but has {sorted(outputs)}")
    return _Streams(
        [_stream(hailo, hef, info) for info in inputs], [_stream(hailo, hef, outputs[name]) for name in order], original
    )


def _stream(hailo: Any, hef: Hef, info: Any) -> Stream:
    types = {hailo.FormatType.UINT8: np.uint8, hailo.FormatType.UINT16: np.uint16}
    if info.format.type not in types:
        raise HefError(f"{hef.path}: stream {info.name} is {info.format.type}, expected UINT8 or UINT16")
    zero_point, scale = float(info.quant_info.qp_zp), float(info.quant_info.qp_scale)
    # HailoRT says 0 where each feature has a scale of its own, and its Python package does not tell those.
    if not scale > 0:
        raise HefError(
            f"{hef.path}: stream {info.name} has no one scale for all of its values: compile it without a scale for "
            "each feature"
        )
    return Stream(str(info.name), tuple(info.shape), np.dtype(types[info.format.type]), zero_point, scale)


def _by_shape(hef: Hef, streams: list[Stream], **shapes: tuple[int, ...]) -> list[Stream]:
    """Return the streams in the order of `shapes`. The vendor's names say nothing of what a stream is."""
    found = {stream.shape: stream for stream in streams}
    if len(streams) != len(shapes) or set(found) != set(shapes.values()):
        raise HefError(
            f"{hef.path}: has {', '.join(f'{stream.name} {stream.shape}' for stream in streams)}, but the bundle's "
            f"manifest asks for {', '.join(f'{name} {shape}' for name, shape in shapes.items())}: build it again"
        )
    return [found[shape] for shape in shapes.values()]


def _order_logits(hef: Hef, streams: _Streams, manifest: Manifest) -> list[Stream]:
    """Bring the logits outputs into the vocabulary's order.

    By the ONNX nodes they were made from; in the compiler's own order if the HEF names none of ours.
    """
    numbers = [{int(part) for name in names for part in _PART.findall(name)} for names in streams.original_names]
    ordered = streams.outputs
    if any(numbers):
        if sorted(map(sorted, numbers)) != [[part] for part in range(len(numbers))]:
            raise HefError(
                f"{hef.path}: cannot tell the order of the outputs from the names {streams.original_names}: "
                "build the bundle again"
            )
        ordered = [
            stream for _, stream in sorted(zip(map(min, numbers), ordered, strict=True), key=lambda pair: pair[0])
        ]
    shapes = [(1, manifest.sequence, size) for size in manifest.vocabulary_parts]
    if [stream.shape for stream in ordered] != shapes:
        raise HefError(
            f"{hef.path}: has the outputs {', '.join(f'{stream.name} {stream.shape}' for stream in ordered)}, but the "
            f"bundle's manifest asks for {', '.join(map(str, shapes))}: build it again"
        )
    return ordered


def _feature_shape(manifest: Manifest) -> tuple[int, int, int]:
    return (1, 50 * manifest.seconds, manifest.dims["n_text_state"])


def _as_float(stream: Stream) -> Stream:
    """The same stream with HailoRT doing the conversion: it quantises what the host computes as exactly as we could."""
    return replace(stream, dtype=np.dtype(np.float32), zero_point=0.0, scale=1.0)


def requantisation_table(source: Stream, target: Stream) -> np.ndarray | None:
    """Map every code of `source` to the nearest of `target`, or None where they are the same.

    Computed in float32 and rounded half to even, as HailoRT would on the way through floats.
    """
    if (source.dtype, source.zero_point, source.scale) == (target.dtype, target.zero_point, target.scale):
        return None
    codes = np.arange(np.iinfo(source.dtype).max + 1, dtype=np.float32)
    values = (codes - np.float32(source.zero_point)) * np.float32(source.scale)
    rounded: np.ndarray = np.rint(values / np.float32(target.scale) + np.float32(target.zero_point))
    return np.clip(rounded, 0, np.iinfo(target.dtype).max).astype(target.dtype)


# Buffers


@dataclass(eq=False)
class _BufferSet:
    """What one window needs. `decoder_bindings` is None where there is no decoder."""

    mel: np.ndarray
    encoded: np.ndarray
    encoder_bindings: Any
    decoder_bindings: Any
    window: int = 0


@dataclass(frozen=True, eq=False)
class _Features:
    """Handle of a window that is being encoded."""

    backend: HailoRTBackend
    buffers: _BufferSet
    job: "_Job"


def _allocate(stream: Stream) -> np.ndarray:
    """Zeros in whole pages: HailoRT copies what does not start at one."""
    size = int(np.prod(stream.shape)) * stream.dtype.itemsize
    memory = np.zeros(size + 2 * _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE
    return memory[start : start + size].view(stream.dtype).reshape(stream.shape)


def _check(name: str, array: np.ndarray, stream: Stream) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != stream.dtype or array.shape != stream.shape:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise BackendError(f"{name}: {found}, the graph takes {stream.dtype} {stream.shape}")
    if not np.isfinite(array).all():
        raise BackendError(f"{name}: holds NaN or infinity, which the device has no number for")


# The device


class _Device:
    """One virtual device and the models configured on it. Raises as `HailoErrors.during`."""

    def __init__(self, hailo: Any, errors: HailoErrors, share_device: bool) -> None:
        self._hailo = hailo
        self._errors = errors
        self._models: list[_Model] = []
        self._contexts = contextlib.ExitStack()
        with errors.during("opening the device"):
            params = hailo.VDevice.create_params()
            # From Python, the default of HailoRT 4 is no scheduler, and then only one model can run.
            params.scheduling_algorithm = hailo.HailoSchedulingAlgorithm.ROUND_ROBIN
            if share_device:
                params.group_id = SHARED_GROUP
                # HailoRT 4 shares through a service of its own. 5 needs none on Hailo-10H and refuses the setting.
                if str(hailo.__version__).startswith("4."):
                    params.multi_process_service = True
            self._vdevice = hailo.VDevice(params)

    def load(self, hef: Hef, label: str, inputs: Sequence[Stream], outputs: Sequence[Stream]) -> "_Model":
        """Configure a HEF; each stream is exchanged in the format that it says."""
        with self._errors.during(f"loading the {label}", hef, self._architecture):
            model = self._vdevice.create_infer_model(str(hef.path))
            for stream in inputs:
                model.input(stream.name).set_format_type(_format_type(self._hailo, stream))
            for stream in outputs:
                model.output(stream.name).set_format_type(_format_type(self._hailo, stream))
            configured = self._contexts.enter_context(model.configure())
            loaded = _Model(label, configured, self._errors, inputs, outputs)
        self._models.append(loaded)
        return loaded

    def release(self) -> None:
        """Give the device back. May take long or never return: for a thread of its own."""
        # Both lines of HailoRT let go of Python while they end a model whose context is left. But 4 takes hold of it
        # again before all of its threads have ended, so those must be done with our callbacks by then: `finish`.
        for step in (*(model.finish for model in self._models), self._contexts.close, self._vdevice.release):
            try:
                step()
            except Exception as error:  # the other steps are still to be done, and nobody waits for this thread
                _log.warning("HailoRT failed to release the device: %s", one_line(error))

    def open_control(self) -> DeviceReader:
        """Open the device once more, for its controls. Raises what HailoRT raises."""
        (device, *others) = self._vdevice.get_physical_devices()
        for other in others:
            other.release()
        return DeviceReader(self._hailo, device)

    def _architecture(self) -> str | None:
        try:
            with self._vdevice.get_physical_devices()[0] as device:
                return str(device.control.identify().device_architecture).lower()
        except Exception:  # wanted for the message about another failure only
            return None


class _Model:
    """A configured graph."""

    def __init__(
        self,
        label: str,
        configured: Any,
        errors: HailoErrors,
        inputs: Sequence[Stream],
        outputs: Sequence[Stream],
    ) -> None:
        self._configured = configured
        self._label = label
        self._errors = errors
        self._inputs, self._outputs = inputs, outputs
        self._running: list[_Job] = []
        self._failure: BackendError | None = None

    def bind(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Any:
        """Return bindings of buffers, one for each stream; they can be submitted again and again.

        Raises:
            BackendError: a buffer does not fit its stream. HailoRT would not notice.
        """
        with self._errors.during(f"preparing the {self._label}"):
            bindings = self._configured.create_bindings()
            ends = [bindings.input(stream.name) for stream in self._inputs]
            ends += [bindings.output(stream.name) for stream in self._outputs]
            streams = (*self._inputs, *self._outputs)
            for end, stream, buffer in zip(ends, streams, (*inputs, *outputs), strict=True):
                # `carray`: C-contiguous, aligned and writeable.
                if (buffer.dtype, buffer.shape) != (stream.dtype, stream.shape) or not buffer.flags.carray:
                    raise BackendError(f"{stream.name}: a buffer of {buffer.dtype} {buffer.shape} does not fit")
                end.set_buffer(buffer)
        return bindings

    def submit(self, bindings: Any) -> "_Job":
        """Start a job. Raises BackendError, and from then on the model is not usable."""
        self._running = [job for job in self._running if not job.succeeded]
        job = _Job(self)
        with self.running():
            self._configured.wait_for_async_ready(timeout_ms=JOB_TIMEOUT_MS)
            job.handle = self._configured.run_async([bindings], job.on_completion)
        self._running.append(job)
        return job

    def check_usable(self) -> None:
        """Raise an error like the one that the model failed with, if it did."""
        if self._failure is not None:
            raise type(self._failure)(f"the device has failed before: {self._failure}")

    def drain(self) -> None:
        """Wait for everything submitted. Raises BackendError if any of it fails."""
        for job in self._running:
            job.wait()

    def finish(self) -> None:
        """Let what is running end, as far as it does, with its callbacks. Raises what HailoRT raises."""
        if self._failure is None:
            with contextlib.suppress(BackendError):  # the end of the model's context ends it
                self.drain()
        if self._failure is None:
            self._configured.shutdown()
            return
        # No shutdown here: it would keep hold of Python while it waits for jobs, whose callbacks need Python.
        end = time.monotonic() + CALLBACK_SECONDS
        for job in self._running:
            job.called_back.wait(max(0.0, end - time.monotonic()))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Translate what HailoRT raises inside, and remember it."""
        try:
            with self._errors.during(f"running the {self._label}"):
                yield
        except BackendError as error:
            self._failure = error
            raise


class _Job:
    """A run of a graph."""

    def __init__(self, model: _Model) -> None:
        self.handle: Any = None
        self.succeeded = False
        self.called_back = threading.Event()
        self._model = model
        self._error: Exception | None = None
        self._failure: BackendError | None = None

    def on_completion(self, completion_info: Any) -> None:
        """Keep the job's error. Called by a thread of HailoRT, which an exception from here would take down."""
        self._error = completion_info.exception
        self.called_back.set()

    def wait(self) -> None:
        """Return once the job has succeeded and its outputs are written. Raises BackendError, at once if known."""
        if self.succeeded:
            return
        if self._failure is not None:
            raise self._failure
        try:
            with self._model.running():
                self.handle.wait(JOB_TIMEOUT_MS)
                # That only says that the job is over.
                if self._error is not None:
                    raise self._error
        except BackendError as error:
            self._failure = error
            raise
        self.succeeded = True


def _format_type(hailo: Any, stream: Stream) -> Any:
    return getattr(hailo.FormatType, stream.dtype.name.upper())
