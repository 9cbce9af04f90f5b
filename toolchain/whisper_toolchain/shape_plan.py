"""The one table of shapes: variant -> dimensions, (variant, architecture) -> window and sequence.

Everything else (export, calibration, bundle name, checks) derives its shapes from a `ShapePlan`.
"""

from dataclasses import asdict, dataclass

from whisper_runtime.blocks import hop_seconds, window_seconds

from whisper_toolchain.errors import ShapePlanError

ARCHITECTURES = ("hailo8", "hailo8l", "hailo10h")

MEL_FRAMES_PER_SECOND = 100  # hop of 160 samples at 16 kHz
FEATURE_FRAMES_PER_SECOND = 50  # the encoder's second convolution has stride 2
LOGIT_PARTS = 4  # one vocabulary projection is too large for Hailo-8; the reference flow splits it in 4


@dataclass(frozen=True)
class Dimensions:
    """Whisper's hyper-parameters, with the field names of openai-whisper's `ModelDimensions`."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @property
    def multilingual(self) -> bool:
        """True for the vocabularies with language tokens (51865 and up); `.en` models have 51864."""
        return self.n_vocab >= 51865

    def as_dict(self) -> dict[str, int]:
        """The hyper-parameters as a plain dict, in declaration order."""
        return asdict(self)


def _dimensions(n_vocab: int, state: int, heads: int, layers: int) -> Dimensions:
    return Dimensions(80, 1500, state, heads, layers, n_vocab, 448, state, heads, layers)


DIMENSIONS = {
    "tiny": _dimensions(51865, 384, 6, 4),
    "tiny.en": _dimensions(51864, 384, 6, 4),
    "base": _dimensions(51865, 512, 8, 6),
    "base.en": _dimensions(51864, 512, 8, 6),
}
VARIANTS = tuple(DIMENSIONS)

# Window seconds and decoder slots that are known to compile (FACTS section 1).
_TINY = (10, 32)
_BASE_ON_8 = (5, 24)
_BASE_ON_10 = (10, 64)

# Shorter windows leave the decoder too little context: base on difficult speech has 17.5 % word errors with 5 s, 12.1 %
# with 10 s, 11.7 % with 30 s.
_SHORTEST_HOST_WINDOW = 10


@dataclass(frozen=True)
class ShapePlan:
    """Every shape of one (variant, architecture, window, sequence).

    Use `ShapePlan.make`, which fills in the defaults and refuses what is known not to compile.
    """

    variant: str
    arch: str
    seconds: int
    sequence: int
    dims: Dimensions

    @classmethod
    def make(cls, variant: str, arch: str, seconds: int | None = None, sequence: int | None = None) -> "ShapePlan":
        """Return the plan for a variant and architecture, with the window and sequence overridden if given.

        Raises:
            ShapePlanError: unknown variant or architecture, a window that the encoder was not trained for
                or that is not whole seconds, a sequence that leaves no room for text or exceeds the
                decoder's context, or a combination that is known not to compile.
        """
        if variant not in DIMENSIONS:
            raise ShapePlanError(f"unknown variant '{variant}': choose one of {', '.join(VARIANTS)}")
        if arch not in ARCHITECTURES:
            raise ShapePlanError(f"unknown architecture '{arch}': choose one of {', '.join(ARCHITECTURES)}")
        dims = DIMENSIONS[variant]
        is_base = variant.startswith("base")
        default_seconds, default_sequence = _TINY if not is_base else _BASE_ON_10 if arch == "hailo10h" else _BASE_ON_8
        seconds = default_seconds if seconds is None else seconds
        sequence = default_sequence if sequence is None else sequence
        if not 1 <= seconds <= 30:
            raise ShapePlanError(f"window of {seconds} s: Whisper's encoder was trained on 30 s, use 1 to 30")
        if not 8 <= sequence <= dims.n_text_ctx:
            raise ShapePlanError(
                f"sequence of {sequence}: use 8 to {dims.n_text_ctx} (the prompt takes up to 4 slots, "
                f"and the model knows {dims.n_text_ctx} positions)"
            )
        if is_base and arch in ("hailo8", "hailo8l") and seconds > 5:
            raise ShapePlanError(
                f"{variant} with a {seconds} s window does not compile for {arch} (known from the reference "
                f"flow: it needs more than the chip's contexts hold); use SECONDS=5, or ARCH=hailo10h"
            )
        return cls(variant, arch, seconds, sequence, dims)

    @property
    def mel_frames(self) -> int:
        """Mel frames in one window."""
        return MEL_FRAMES_PER_SECOND * self.seconds

    @property
    def feature_frames(self) -> int:
        """Encoder output frames in one window: the truncated `n_audio_ctx`."""
        return FEATURE_FRAMES_PER_SECOND * self.seconds

    @property
    def host_blocks(self) -> int:
        """Encoder windows in the longest window of the host's decoder: more than one where the encoder's is short.

        See `whisper_runtime.blocks`.
        """
        hop = hop_seconds(self.seconds)
        missing = max(0, _SHORTEST_HOST_WINDOW - self.seconds)
        return 1 + -(-missing // hop) if hop > 0 else 1

    @property
    def host_seconds(self) -> int:
        """Length of the longest window of the host's decoder."""
        return window_seconds(self.seconds, self.host_blocks)

    @property
    def host_frames(self) -> int | str:
        """Feature frames that the host's decoder takes; any number, by name, where a window may be several blocks."""
        return self.feature_frames if self.host_blocks == 1 else "frames"

    @property
    def state(self) -> int:
        """Width d of features and embeddings."""
        return self.dims.n_text_state

    @property
    def calibration_rows(self) -> tuple[int, int]:
        """Windows that calibrate the encoder and the decoder, as in the reference flow (FACTS section 1)."""
        return (2048 if self.variant.startswith("base") else 4000), 1024

    @property
    def vocabulary_parts(self) -> tuple[int, ...]:
        """Sizes v_i of the logits outputs: vocab // 4 each, the remainder in the last (FACTS section 1)."""
        part = self.dims.n_vocab // LOGIT_PARTS
        return (part,) * (LOGIT_PARTS - 1) + (self.dims.n_vocab - part * (LOGIT_PARTS - 1),)

    @property
    def shape_name(self) -> str:
        """Name of everything that does not depend on the architecture, such as `tiny-10s-seq32`."""
        return f"{self.variant}-{self.seconds}s-seq{self.sequence}"

    @property
    def bundle_name(self) -> str:
        """Name of the bundle, such as `whisper-tiny-10s-seq32-hailo8`."""
        return f"whisper-{self.shape_name}-{self.arch}"

    @property
    def options(self) -> str:
        """The command-line options that name this plan, for messages that say what to run."""
        return f"--variant {self.variant} --arch {self.arch}"
