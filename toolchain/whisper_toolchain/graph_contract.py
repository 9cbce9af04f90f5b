"""Names of the two exported graphs and of their inputs and outputs (shapes are in `shape_plan`)."""

from whisper_toolchain.shape_plan import LOGIT_PARTS

ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"

MEL = "mel"
FEATURES = "features"
TOKEN_EMBEDDINGS = "token_embeddings"  # noqa: S105 - a tensor's name
LOGITS = tuple(f"logits_{part}" for part in range(LOGIT_PARTS))
