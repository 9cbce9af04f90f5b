"""What the app takes for granted of two HEFs, whose layers the compiler names."""

from whisper_runtime.bundle import Bundle
from whisper_runtime.hef import Hef, HefStream, check_outputs, read_hef

from integration.errors import AppError
from integration.registration import Registration

# The decoder's inputs by the names that the app uses, and a part of the names of those outputs that it reads.
FEATURES, EMBEDDINGS, LOGITS = "input_layer1", "input_layer2", "conv"


def check_hefs(bundle: Bundle, registration: Registration) -> None:
    """Refuse a compiled bundle that the app would misread.

    The app takes the decoder's inputs and outputs by name and order; our runtime does not.

    Raises:
        AppError: a stream has another name, shape or place than the app asks for.
        HefError: a HEF is damaged or has a dead output.
    """
    manifest = bundle.manifest
    for name in registration.models.values():
        hef = read_hef(bundle.folder / name)
        if hef.architecture != manifest.arch:
            raise AppError(f"{hef.path}: compiled for {hef.architecture}, its bundle is for {manifest.arch}")
        check_outputs(hef)
    decoder = hef  # the last of the two
    width = manifest.dims["n_text_state"]
    _expect(decoder, FEATURES, decoder.inputs, (1, 50 * manifest.seconds, width))
    _expect(decoder, EMBEDDINGS, decoder.inputs, (manifest.sequence, 1, width))
    logits = [stream.shape for stream in decoder.outputs if LOGITS in stream.name]
    if logits != [(1, manifest.sequence, size) for size in manifest.vocabulary_parts]:
        found = ", ".join(f"{stream.name} {stream.shape}" for stream in decoder.outputs)
        raise AppError(
            f"{decoder.path}: the app joins the outputs with '{LOGITS}' in their names, in HailoRT's order, which "
            f"gives no logits here: {found}: use whisper-runtime, which finds them itself"
        )


def _expect(hef: Hef, layer: str, streams: tuple[HefStream, ...], shape: tuple[int, ...]) -> None:
    if shape not in [stream.shape for stream in streams if stream.name.endswith(f"/{layer}")]:
        found = ", ".join(f"{stream.name} {stream.shape}" for stream in streams)
        raise AppError(
            f"{hef.path}: the app needs the input {layer} of shape {shape}; there are {found}: use whisper-runtime, "
            "which finds them itself"
        )
