"""The decoder for the host's CPU: with a key-value cache, int8 weights, and cross-attention computed once a window.

A CPU has what the accelerator lacks, memory that lasts from one step to the next. So these graphs are not the
accelerator's. They are written straight from the checkpoint's tensors:

    cross_attention: features [1,50*s,d] -> cross_key_i [h,50*s,d/h], cross_value_i [h,50*s,d/h]
                     (with any number of frames where `whisper_runtime.stitching` makes long windows of short ones)
    host_decoder:    token_embeddings [n,d], hidden [n,p+n], rows [r], the cross tensors, self_key_i [h,p,d/h],
                     self_value_i [h,p,d/h]
                     -> logits [r,vocab], new_self_key_i [h,p+n,d/h], new_self_value_i [h,p+n,d/h],
                        alignment [a,n,50*s]

with h heads, p tokens in the cache, n new ones, and i counting the blocks. `hidden` is added to the scores: zero for
what a token sees, very low for what it does not. So the cache may hold a tree of texts that begin alike. `rows` says
after which of the new tokens logits are wanted: the vocabulary is half of the work. `alignment` has the scores of those
a heads of cross-attention that follow the sound: they say when the next token is spoken.

Weights are int8 with one scale a column, activations become uint8 as they come (ONNX's DynamicQuantizeLinear): nothing
has to be calibrated. Such a scale holds for a whole tensor, and tokens differ in size: with a text in one tensor the
noise of tiny's logits grows by 12 dB. So the tokens of one text go in one at a time. That also makes the logits those
of the tokens alone, bit for bit, whatever was computed before. Together go only the next tokens of several texts, which
are much alike. Each product is written as the nodes that ONNX Runtime joins into one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.host_decoder import ALIGNMENT, CROSS_ATTENTION, HOST_DECODER, HostDecoder
from whisper_runtime.mel import window_mel

from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.errors import ExportError
from whisper_toolchain.float_model import host_arrays
from whisper_toolchain.graph_contract import ENCODER
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.signal_to_noise import signal_to_noise

_OPSET = 20  # the first with Gelu
_IR_VERSION = 10
_EPSILON = 1e-5  # torch's LayerNorm

# Of the logits, for int8. Measured on 40 clips of four variants: 24 to 34 dB. A fault of this module in all blocks
# (a weight turned round, a bias or the query's scale left out, one scale for all columns) leaves at most 13 dB. What
# int8 would hide, the tests find with float weights: there the same comparison gives more than 110 dB.
SNR_TOLERANCE_DB = 18.0


@dataclass(frozen=True)
class HostDecoderCheck:
    """How far the host decoder is from the torch model, on one window of real speech.

    Attributes:
        logit_snr_db: signal-to-noise ratio of the logits, in dB.
        argmax_equal: share of the positions whose most likely token is the same.
    """

    logit_snr_db: float
    argmax_equal: float

    def as_dict(self) -> dict[str, Any]:
        """The figures with the tolerance they were held to."""
        return {**asdict(self), "snr_tolerance_db": SNR_TOLERANCE_DB}


def write_host_decoder(
    checkpoint: Checkpoint,
    plan: ShapePlan,
    folder: Path,
    heads: Sequence[tuple[int, int]] | None = None,
    *,
    int8: bool = True,
) -> None:
    """Write `cross_attention.onnx` and `host_decoder.onnx` into a folder.

    Args:
        checkpoint: the weights, in openai-whisper's names.
        plan: the window.
        folder: where to write.
        heads: of cross-attention that follow the sound, as (block, head), ascending; at least one. None for all of the
            upper half of the blocks, as openai-whisper has it for models that it does not know.
        int8: False keeps weights and activations in float32, for telling what int8 costs.
    """
    graph = _Graph(checkpoint, int8)
    _cross_attention(graph, plan)
    graph.write(folder / CROSS_ATTENTION)
    graph = _Graph(checkpoint, int8)
    blocks, per_block = plan.dims.n_text_layer, plan.dims.n_text_head
    upper = [(block, head) for block in range(blocks // 2, blocks) for head in range(per_block)]
    _decoder(graph, plan, upper if heads is None else heads)
    graph.write(folder / HOST_DECODER)


class _Graph:
    """Collects the nodes and weights of a graph. A node has the name of its output."""

    def __init__(self, checkpoint: Checkpoint, int8: bool) -> None:
        self._state = checkpoint.state
        self._int8 = int8
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def weight(self, name: str) -> np.ndarray:
        """A tensor of the checkpoint, float32."""
        return self._state[name].astype(np.float32)

    def projection(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Weight (in, out) and bias (out,) of a linear layer of the checkpoint. Keys have no bias: zeros."""
        weight = self.weight(f"{layer}.weight").T
        bias = np.zeros(weight.shape[1], np.float32) if layer.endswith(".key") else self.weight(f"{layer}.bias")
        return weight, bias

    def add_input(self, name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def add_output(self, name: str, shape: Sequence[int | str]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def constant(self, name: str, values: np.ndarray | np.int8 | Sequence[int]) -> str:
        self._weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes(operator, inputs, [output], **attributes)
        return output

    def nodes(self, operator: str, inputs: Sequence[str], outputs: list[str], **attributes: Any) -> list[str]:
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def layer_norm(self, x: str, layer: str) -> str:
        scale_and_bias = [self.constant(name, self.weight(name)) for name in (f"{layer}.weight", f"{layer}.bias")]
        return self.node("LayerNormalization", [x, *scale_and_bias], layer, axis=-1, epsilon=_EPSILON)

    def linear(self, x: str, layer: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """`x @ weight + bias` with weight (in, out) and bias (out,)."""
        product = layer if bias is None else f"{layer}.product"
        if self._int8:
            codes, scale = quantise_columns(weight)
            x_codes, x_scale, x_zero = self.nodes(
                "DynamicQuantizeLinear", [x], [f"{layer}.{part}" for part in ("codes", "x_scale", "zero_point")]
            )
            # Without a zero point, ONNX Runtime leaves out what keeps sums from overflowing on an x86 without VNNI.
            zero = self.constant(f"{layer}.weight_zero_point", np.int8(0))
            whole = self.node(
                "MatMulInteger", [x_codes, self.constant(f"{layer}.weight", codes), x_zero, zero], f"{layer}.whole"
            )
            number = self.node("Cast", [whole], f"{layer}.number", to=TensorProto.FLOAT)
            scales = self.node("Mul", [x_scale, self.constant(f"{layer}.scale", scale)], f"{layer}.scales")
            self.node("Mul", [number, scales], product)
        else:
            self.node("MatMul", [x, self.constant(f"{layer}.weight", weight)], product)
        if bias is not None:
            self.node("Add", [product, self.constant(f"{layer}.bias", bias)], layer)
        return layer

    def split_heads(self, x: str, heads: int, width: int, output: str) -> str:
        """[n,heads*width] -> [heads,n,width]."""
        split = self.reshape(x, [-1, heads, width], f"{output}.split")
        return self.node("Transpose", [split], output, perm=[1, 0, 2])

    def attend(self, query: str, key: str, value: str, layer: str, state: int, hidden: str | None = None) -> str:
        """Softmax(query @ key^T + hidden) @ value, with query [h,n,d/h], key and value [h,m,d/h] -> [n,d]."""
        turned = self.node("Transpose", [key], f"{layer}.turned", perm=[0, 2, 1])
        scores = self.node("MatMul", [query, turned], f"{layer}.scores")
        if hidden is not None:
            scores = self.node("Add", [scores, hidden], f"{layer}.seen")
        shares = self.node("Softmax", [scores], f"{layer}.shares", axis=-1)
        context = self.node("MatMul", [shares, value], f"{layer}.context")
        by_token = self.node("Transpose", [context], f"{layer}.by_token", perm=[1, 0, 2])
        return self.reshape(by_token, [-1, state], f"{layer}.joined")

    def reshape(self, x: str, shape: Sequence[int], output: str) -> str:
        return self.node("Reshape", [x, self.constant(f"{output}.shape", shape)], output)

    def write(self, path: Path) -> None:
        graph = helper.make_graph(self._nodes, path.stem, self._inputs, self._outputs, self._weights)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="hailo-whisper-toolchain",
        )
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))


def check_host_decoder(
    model: torch.nn.Module,
    checkpoint: Checkpoint,
    plan: ShapePlan,
    folder: Path,
    samples: np.ndarray,
    tokens: Sequence[int],
) -> HostDecoderCheck:
    """Decode speech with the graphs as on the device, token by token, and compare with the torch model.

    Args:
        model: the patched model of the same checkpoint, with the plan's window.
        checkpoint: the weights.
        plan: the shapes.
        folder: holds the two graphs and the exported encoder.
        samples: float32 speech at 16 kHz, at most one window.
        tokens: prompt and text of the speech; as many are used as the sequence is long.

    Raises:
        ExportError: the noise is beyond its tolerance.
    """
    tokens = tokens[: plan.sequence]
    mel = window_mel(samples, plan.seconds)[None, :, None, :]
    features: torch.Tensor = model.encoder(torch.from_numpy(mel))  # type: ignore[operator]
    logits: np.ndarray = model.decoder(torch.tensor([tokens]), features).numpy()[0]  # type: ignore[operator]
    with OnnxRuntimeBackend(folder / ENCODER, None) as backend:
        decoder = HostDecoder(backend, TokenEmbedding(*host_arrays(checkpoint)), folder)
        decoder.begin(features.numpy())  # torch's, so that only the decoder is judged
        found = np.concatenate([decoder.logits((), tokens, [row]) for row in range(len(tokens))])
    check = HostDecoderCheck(
        logit_snr_db=signal_to_noise(logits, found),
        argmax_equal=float((found.argmax(-1) == logits.argmax(-1)).mean()),
    )
    if not check.logit_snr_db >= SNR_TOLERANCE_DB:  # written so that a NaN fails too
        raise ExportError(
            f"the host decoder differs from the torch model: SNR of the logits {check.logit_snr_db:.0f} dB (at least "
            f"{SNR_TOLERANCE_DB:.0f} wanted)"
        )
    return check


def quantise_columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round a weight (in, out) to int8 with a scale for each column, symmetric.

    Returns:
        Codes (in, out) int8 in -127..127 and scales (out,) float32; weight is about codes * scales.
    """
    scale = np.abs(weight).max(axis=0) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight / scale).astype(np.int8), scale


def _cross_attention(graph: _Graph, plan: ShapePlan) -> None:
    heads, frames = plan.dims.n_text_head, plan.host_frames
    width = plan.state // heads
    features = graph.add_input("features", [1, frames, plan.state])
    for block in range(plan.dims.n_text_layer):
        for part in ("key", "value"):
            layer, output = f"decoder.blocks.{block}.cross_attn.{part}", f"cross_{part}_{block}"
            flat = graph.linear(features, layer, *graph.projection(layer))
            graph.add_output(graph.split_heads(flat, heads, width, output), [heads, frames, width])


def _decoder(graph: _Graph, plan: ShapePlan, following: Sequence[tuple[int, int]]) -> None:
    heads = plan.dims.n_text_head
    width = plan.state // heads
    x = graph.add_input("token_embeddings", ["n", plan.state])
    hidden = graph.add_input("hidden", ["n", "p_and_n"])
    rows = graph.add_input("rows", ["r"], TensorProto.INT64)
    alignments = []
    for block in range(plan.dims.n_text_layer):
        layer = f"decoder.blocks.{block}.attn"
        past = [graph.add_input(f"self_{part}_{block}", [heads, "p", width]) for part in ("key", "value")]
        projections = [_query(graph, layer, width), *(graph.projection(f"{layer}.{part}") for part in ("key", "value"))]
        weights, biases = zip(*projections, strict=True)
        normed = graph.layer_norm(x, f"{layer}_ln")
        joined = graph.linear(normed, f"{layer}.qkv", np.concatenate(weights, axis=1), np.concatenate(biases))
        by_head = graph.split_heads(joined, 3 * heads, width, f"{layer}.by_head")
        names = [f"{layer}.{part}" for part in ("query", "key", "value")]
        query, *new = graph.nodes("Split", [by_head], names, axis=0, num_outputs=3)
        known = [graph.node("Concat", [old, more], f"new_{old}", axis=1) for old, more in zip(past, new, strict=True)]
        for name in known:
            graph.add_output(name, [heads, "p_and_n", width])
        x = _add(graph, x, graph.attend(query, known[0], known[1], layer, plan.state, hidden), f"{layer}.out")

        layer = f"decoder.blocks.{block}.cross_attn"
        shape = [heads, plan.host_frames, width]
        cross = [graph.add_input(f"cross_{part}_{block}", shape) for part in ("key", "value")]
        normed = graph.layer_norm(x, f"{layer}_ln")
        flat = graph.linear(normed, f"{layer}.query", *_query(graph, layer, width))
        query = graph.split_heads(flat, heads, width, f"{layer}.by_head")
        x = _add(graph, x, graph.attend(query, cross[0], cross[1], layer, plan.state), f"{layer}.out")
        if chosen := [head for of, head in following if of == block]:
            which = graph.constant(f"{layer}.following", chosen)
            alignments.append(graph.node("Gather", [f"{layer}.scores", which], f"{layer}.alignment", axis=0))

        layer = f"decoder.blocks.{block}.mlp"
        inner = graph.linear(graph.layer_norm(x, f"{layer}_ln"), f"{layer}.0", *graph.projection(f"{layer}.0"))
        x = _add(graph, x, graph.node("Gelu", [inner], f"{layer}.1"), f"{layer}.2")
    wanted = graph.node("Gather", [x, rows], "wanted", axis=0)
    head = graph.weight("decoder.token_embedding.weight").T
    logits = graph.linear(graph.layer_norm(wanted, "decoder.ln"), "logits", head, None)
    graph.add_output(logits, ["r", plan.dims.n_vocab])
    graph.node("Concat", alignments, ALIGNMENT, axis=0)
    graph.add_output(ALIGNMENT, ["a", "n", plan.host_frames])


def _query(graph: _Graph, layer: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of an attention's query, with the scale of its scores."""
    scale = np.float32(width**-0.5)
    weight, bias = graph.projection(f"{layer}.query")
    return weight * scale, bias * scale


def _add(graph: _Graph, x: str, inner: str, layer: str) -> str:
    """The residual stream with a linear layer's result added."""
    return graph.node("Add", [x, graph.linear(inner, layer, *graph.projection(layer))], f"{layer}.residual")
