"""Rungs: an encoder and a decoder, each in one form, and what it takes to run them.

    stock               openai-whisper in torch: 30 s of context, temperature 0
    float               the exported graphs in the accelerator's shapes
    emulated            an emulated bundle's graphs, on this CPU
    dfc-native, dfc-optimised, dfc-quantised
                        as Hailo's compiler holds them, by its own emulation on this CPU: see `dfc_backend`
    device              a compiled bundle's graphs, on the Hailo device
    host                as a decoder: the int8 decoder for the host's CPU

`float+emulated` is the float encoder with the emulated decoder; `float` stands for `float+float`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from whisper_runtime.backends import Backend, Features, open_backend
from whisper_runtime.bundle import Bundle
from whisper_runtime.closing import Closing
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import BackendError, one_line
from whisper_runtime.evaluation.rung import MissingRung
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.sensors import Sensors
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.stitching import for_host_decoder
from whisper_runtime.timed_engine import Engine, TimedEngine

from whisper_toolchain import third_party
from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.errors import EvaluationError
from whisper_toolchain.evaluation.dfc_backend import FORMS, DfcBackend, DfcNetworks
from whisper_toolchain.evaluation.drafted_reader import DraftedReader
from whisper_toolchain.float_model import host_arrays, load_tokenizer, open_float_backend
from whisper_toolchain.model import build_model
from whisper_toolchain.shape_plan import ShapePlan

STOCK = "stock"
STOCK_OPTIONS = {"temperature": 0.0, "fp16": False}
"""Of its `transcribe`: greedy and without another try, so that every run gives the same text."""

ENCODERS = ("float", "emulated", *FORMS, "device")
DECODERS = (*ENCODERS, "host")


def parse_rungs(text: str) -> list[str]:
    """Read a list such as "stock,float,emulated+float". Raises EvaluationError for a form that does not exist."""
    rungs = [name.strip() for name in text.split(",") if name.strip()]
    for name in rungs:
        encoder, _, decoder = name.partition("+")
        if name == STOCK:
            continue
        if encoder not in ENCODERS or (decoder or encoder) not in DECODERS:
            raise EvaluationError(
                f"unknown rung '{name}': use stock, or an encoder ({', '.join(ENCODERS)}) alone or with +decoder "
                f"({', '.join(DECODERS)})"
            )
        if decoder == "device" and encoder != "device":
            raise EvaluationError(f"rung '{name}': the device's decoder takes features from its own encoder only")
    if not rungs:
        raise EvaluationError("no rung to evaluate: name some, such as --rungs stock,float,emulated")
    return list(dict.fromkeys(name.removesuffix(f"+{name.partition('+')[0]}") for name in rungs))


class MixedBackend(Closing):
    """The encoder of one backend with the decoder of another. Closes both."""

    lookahead = 0

    def __init__(self, encoder: Backend, decoder: Backend) -> None:
        self._encoder = encoder
        self._decoder = decoder

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """Features as numbers, (1, 50*s, d). Raises BackendError."""
        return self._encoder.read_features(self._encoder.encode(mel))

    def decode(self, features: Features, token_embeddings: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        """Logits of the rows. Raises BackendError."""
        return self._decoder.decode(features, token_embeddings, rows)

    def read_features(self, features: np.ndarray) -> np.ndarray:
        """The features themselves."""
        return features

    def sensors(self) -> Sensors | None:
        """Those of the encoder's, or else the decoder's."""
        return self._encoder.sensors() or self._decoder.sensors()

    def close(self) -> None:
        """Close both."""
        self._encoder.close()
        self._decoder.close()


@dataclass
class StockEngine:
    """Stock openai-whisper."""

    model: object
    language: str | None
    stages: dict[str, float]
    calls: int = 0
    sensors: Sensors | None = None

    def text(self, samples: np.ndarray) -> str:
        """Transcribe mono samples at 16 kHz. Raises EvaluationError: torch or openai-whisper fails on them."""
        try:
            found = self.model.transcribe(np.array(samples), language=self.language, **STOCK_OPTIONS)  # type: ignore[attr-defined]
        except (RuntimeError, ValueError) as error:
            raise EvaluationError(f"openai-whisper: {one_line(error)}") from error
        return str(found["text"])

    def close(self) -> None:
        """It holds nothing but memory."""


@dataclass(frozen=True)
class Rungs:
    """Opens rungs.

    Attributes:
        plan: the shapes.
        export: folder of the float graphs and the decoder for the host.
        checkpoint: the weights.
        whisper: the patched openai-whisper, for the tokenizer.
        stock: folder of the unpatched openai-whisper.
        bundle: the verified bundle, or the reason that there is none.
        language: code such as "en"; None to detect it.
        networks: those of Hailo's compiler, or the reason that there are none.
        drafts: let the decoder for the host guess what slots on this CPU check; no text changes, only the time.
    """

    plan: ShapePlan
    export: Path
    checkpoint: Checkpoint
    whisper: Path
    stock: Path
    bundle: Bundle | str
    language: str | None
    networks: DfcNetworks | str
    drafts: bool = True

    def missing(self, rung: str) -> str | None:
        """Why a rung cannot be measured here; None if it can be tried."""
        forms = set(rung.split("+"))
        for graph, form in self._dfc_forms(rung).items():
            reason = self.networks if isinstance(self.networks, str) else self.networks.missing(graph, form)
            if reason is not None:
                return reason
        if isinstance(self.bundle, str):
            return self.bundle if forms & {"emulated", "device"} else None
        emulated = self.bundle.manifest.emulated
        if "device" in forms and emulated:
            return "the bundle is emulated and has no HEFs: compile it with Hailo's compiler (COMPILER=dfc)"
        if "emulated" in forms and not emulated:
            return "the bundle is compiled: its graphs run on a device only"
        return None

    def _dfc_forms(self, rung: str) -> dict[str, str]:
        """Form of each graph of a rung that Hailo's compiler runs."""
        encoder, _, decoder = rung.partition("+")
        both = {"encoder": encoder, "decoder": decoder or encoder}
        return {graph: form for graph, form in both.items() if form in FORMS}

    def dfc_inputs(self, rung: str) -> dict[str, str]:
        """What a rung's results depend on besides the export: compiler and networks; nothing for other rungs."""
        networks = self.networks
        if isinstance(networks, str):
            return {}
        digests = {graph: networks.digest(graph, form) for graph, form in self._dfc_forms(rung).items()}
        return {**digests, "dfc": networks.version} if digests else {}

    def drafted(self, rung: str) -> bool:
        """Whether the rung's slots are drafted by the decoder for the host."""
        return self.drafts and rung != STOCK and not rung.endswith("host") and "device" not in rung

    def open(self, rung: str) -> Engine:
        """Open a rung. Raises MissingRung, or a WhisperError if it is there and broken."""
        reason = self.missing(rung)
        if reason is not None:
            raise MissingRung(reason)
        if rung == STOCK:
            whisper = third_party.import_whisper(self.stock, "stock_whisper")
            return StockEngine(build_model(whisper, self.checkpoint, 1500), self.language, {})
        encoder, _, decoder = rung.partition("+")
        decoder = decoder or encoder
        tokenizer = load_tokenizer(self.whisper, self.plan.dims)
        both = decoder == encoder
        backend: Backend = self._backend(encoder, ("encoder", "decoder") if both else ("encoder",))
        if decoder not in (encoder, "host"):
            try:
                backend = MixedBackend(backend, self._backend(decoder, ("decoder",)))
            except BaseException:
                backend.close()
                raise
        if decoder == "host":
            try:
                folder = self._host_folder(of_bundle=encoder != "float")
                backend, seconds = for_host_decoder(backend, folder, self.plan.seconds)
                host = self._host(backend, of_bundle=encoder != "float")
                return TimedEngine(backend, host, tokenizer, seconds, self.language)
            except BaseException:
                backend.close()
                raise
        slots = SlotDecoder(backend, self._embedding("float" if decoder == "float" else "bundle"), self.plan.sequence)
        reader = None
        if self.drafted(rung):
            drafter = self._host(backend, of_bundle=False)
            reader = functools.partial(DraftedReader, host=drafter, tokenizer=tokenizer, seconds=self.plan.seconds)
        return TimedEngine(backend, slots, tokenizer, self.plan.seconds, self.language, reader)

    def _host(self, backend: Backend, of_bundle: bool) -> HostDecoder:
        embedding = self._embedding("bundle" if of_bundle else "float")
        return HostDecoder(backend, embedding, self._host_folder(of_bundle))

    def _host_folder(self, of_bundle: bool) -> Path:
        return self.bundle.folder if of_bundle and isinstance(self.bundle, Bundle) else self.export

    def _backend(self, form: str, graphs: Sequence[str]) -> Backend:
        """A backend that has at least the graphs asked for."""
        if form == "float":
            return open_float_backend(self.export)
        if form in FORMS:
            assert isinstance(self.networks, DfcNetworks)  # noqa: S101 - `missing` has looked
            return DfcBackend(self.networks, form, graphs, self.plan, self.export)
        assert isinstance(self.bundle, Bundle)  # noqa: S101 - `missing` has looked
        with_decoder = "decoder" in graphs
        if form == "emulated" and with_decoder:
            self._check_vocabulary()
        return open_backend(self.bundle, with_decoder=with_decoder)

    def _check_vocabulary(self) -> None:
        """Raise BackendError if the decoder is one of another vocabulary: its tokens would mean something else."""
        from whisper_toolchain.ort_session import open_session

        assert isinstance(self.bundle, Bundle)  # noqa: S101
        session = open_session(self.bundle.folder / "decoder.emulated.onnx")
        tokens = sum(int(output.shape[-1]) for output in session.get_outputs())
        if tokens != self.plan.dims.n_vocab:
            raise BackendError(
                f"the bundle's decoder is of another variant: it knows {tokens} tokens, {self.plan.variant} has "
                f"{self.plan.dims.n_vocab}"
            )

    def _embedding(self, form: str) -> TokenEmbedding:
        if form == "bundle" and isinstance(self.bundle, Bundle):
            return self.bundle.embedding()
        return TokenEmbedding(*host_arrays(self.checkpoint))
