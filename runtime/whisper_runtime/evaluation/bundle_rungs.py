"""The rungs that a bundle alone makes up: its encoder with its own decoder, and with the host's."""

from collections.abc import Sequence

from whisper_runtime.backends import open_backend
from whisper_runtime.bundle import Bundle
from whisper_runtime.errors import EvaluationError
from whisper_runtime.evaluation.ladder import DEVICE, EMULATED, HOST
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.stitching import for_host_decoder
from whisper_runtime.text_decoder import TextDecoder
from whisper_runtime.timed_engine import TimedEngine

DECODERS = ("device", "host")


def parse_decoders(text: str) -> tuple[str, ...]:
    """Read "device", "host", "device,host", or "both" for that. Raises EvaluationError."""
    names = DECODERS if text == "both" else tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in DECODERS:
            raise EvaluationError(f"unknown decoder '{name}': use device, host, or both")
    return names


def rung_names(bundle: Bundle, decoders: Sequence[str]) -> dict[str, str]:
    """The decoder of each rung, by the rung's name."""
    form = EMULATED if bundle.manifest.emulated else DEVICE
    return {form if decoder == "device" else f"{form}+{HOST}": decoder for decoder in decoders}


def open_rung(
    bundle: Bundle, decoder: str, language: str | None, *, share_device: bool = False, threads: int | None = None
) -> TimedEngine:
    """Open a bundle with one of `DECODERS`.

    Args:
        bundle: a verified bundle.
        decoder: "device" for the bundle's own, also where that is emulated; "host" for the one on this CPU.
        language: code such as "en"; None to detect it in each recording.
        share_device: let other programs use the device meanwhile.
        threads: threads of the CPU for each graph on it; None for one per core.

    Raises:
        BundleError, HefError, BackendError: as `Transcriber`.
    """
    embedding, tokenizer = bundle.embedding(), bundle.tokenizer()
    backend = open_backend(bundle, None, share_device, with_decoder=decoder == "device", threads=threads)
    try:
        text_decoder: TextDecoder
        seconds = bundle.manifest.seconds
        if decoder == "device":
            text_decoder = SlotDecoder(backend, embedding, bundle.manifest.sequence)
        else:
            backend, seconds = for_host_decoder(backend, bundle.folder, seconds)
            text_decoder = HostDecoder(backend, embedding, bundle.folder, threads)
        return TimedEngine(backend, text_decoder, tokenizer, seconds, language)
    except BaseException:
        backend.close()
        raise
