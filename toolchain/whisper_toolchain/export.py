"""Export to the two graphs that run on the accelerator, checked against the torch model on real speech.

    encoder: mel [1,80,1,100*s] -> features [1,50*s,d]
    decoder: features [1,50*s,d], token_embeddings [1,d,seq,1] -> logits_0..3 [1,seq,v_i]

Token lookup and positional addition happen on the host. All shapes are fixed, all names are ours.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from whisper_runtime.mel import window_mel

from whisper_toolchain.errors import ExportError
from whisper_toolchain.graph_contract import DECODER, ENCODER, FEATURES, LOGITS, MEL, TOKEN_EMBEDDINGS
from whisper_toolchain.graph_names import rename_graph
from whisper_toolchain.graph_simplify import simplify
from whisper_toolchain.ort_session import open_session
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.signal_to_noise import signal_to_noise

# 13 is what the reference flow hands to the vendor's parser: LayerNormalization and Gelu are decomposed in it.
OPSET = 13

# Both sides compute in float32 and differ only in the order of sums. Where a window is padded with silence the
# normalisation divides by almost nothing and magnifies that a thousandfold in single values (measured: at most 0.007
# of features up to 17, for tiny), so a largest difference says little. As a whole the graphs agree to 88 dB and more
# (measured over the registry sample); a wrong weight, row or order of any kind costs far more than what is left.
SNR_TOLERANCE_DB = 80.0

# By how much logits may change with what stands in later slots. With the masks as they are the bits were the same where
# it was tried; the tolerance is for the last bit on other CPUs. A mask of -64 let through up to 13 in base.
CAUSAL_TOLERANCE = 5e-6


@dataclass(frozen=True)
class ExportCheck:
    """How far the exported graphs are from the torch model, on one window of real speech.

    Attributes:
        feature_error, logit_error: largest absolute differences.
        feature_snr_db, logit_snr_db: signal-to-noise ratios, in dB.
        argmax_equal: whether every position's most likely token is the same.
    """

    feature_error: float
    logit_error: float
    feature_snr_db: float
    logit_snr_db: float
    argmax_equal: bool

    def as_dict(self) -> dict[str, Any]:
        """The figures with the tolerance they were held to."""
        return {**asdict(self), "snr_tolerance_db": SNR_TOLERANCE_DB}


class _Encoder(torch.nn.Module):
    def __init__(self, whisper: Any) -> None:
        super().__init__()
        self.encoder = whisper.encoder

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.encoder(mel)
        return features


class _EmbeddedDecoder(torch.nn.Module):
    """Gives `TextDecoder.forward_embedded` a module of its own, so that its nodes are traced in a scope."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.blocks = decoder.blocks
        self.ln = decoder.ln
        self._forward = [decoder.forward_embedded]  # in a list, or torch would register the decoder again

    def forward(self, embedded: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self._forward[0](embedded, features))


class _Decoder(torch.nn.Module):
    def __init__(self, whisper: Any) -> None:
        super().__init__()
        self.decoder = _EmbeddedDecoder(whisper.decoder)

    def forward(self, features: torch.Tensor, token_embeddings: torch.Tensor) -> tuple[torch.Tensor, ...]:
        embedded = token_embeddings.squeeze(3).permute(0, 2, 1)
        logits: tuple[torch.Tensor, ...] = self.decoder(embedded, features)
        return logits


def export_graphs(model: torch.nn.Module, plan: ShapePlan, folder: Path) -> None:
    """Write `encoder.onnx` and `decoder.onnx` into a folder.

    Args:
        model: the patched model of `model.build_model`, with the plan's window.
        plan: the shapes.
        folder: where to write.

    Raises:
        ExportError: the graphs do not have the inputs, outputs and shapes of the contract.
    """
    state = plan.state
    _export(
        _Encoder(model),
        {MEL: (1, plan.dims.n_mels, 1, plan.mel_frames)},
        {FEATURES: (1, plan.feature_frames, state)},
        folder / ENCODER,
    )
    _export(
        _Decoder(model),
        {FEATURES: (1, plan.feature_frames, state), TOKEN_EMBEDDINGS: (1, state, plan.sequence, 1)},
        {name: (1, plan.sequence, size) for name, size in zip(LOGITS, plan.vocabulary_parts, strict=True)},
        folder / DECODER,
    )


def _export(
    module: torch.nn.Module,
    inputs: dict[str, tuple[int, ...]],
    outputs: dict[str, tuple[int, ...]],
    path: Path,
) -> None:
    with warnings.catch_warnings():
        # The tracer remarks on every shape that it makes constant (that is what we want) and on being the
        # older of torch's two exporters (the newer one ignores the opset asked for and renames everything).
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(torch.zeros(shape) for shape in inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
    model = onnx.load(path)
    simplify(model)
    rename_graph(model)
    model.producer_name = "hailo-whisper-toolchain"
    model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    for wanted, values in ((inputs, model.graph.input), (outputs, model.graph.output)):
        found = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
        if found != wanted:
            raise ExportError(f"{path.name}: the exporter made {found}, the contract says {wanted}")
    path.write_bytes(model.SerializeToString(deterministic=True))


def check_export(
    model: torch.nn.Module, plan: ShapePlan, folder: Path, samples: np.ndarray, tokens: Sequence[int]
) -> ExportCheck:
    """Run the exported graphs and the torch model on the same speech and compare.

    Args:
        model: the patched model that was exported.
        plan: its shapes.
        folder: holds the two graphs.
        samples: float32 speech at 16 kHz, at most one window.
        tokens: at least one token id; they are repeated to fill the sequence, so that every position counts.

    Raises:
        ExportError: the noise is beyond its tolerance, a position has another most likely token, or what stands in
            later slots changes the logits of earlier ones: attention scores that outweigh the causal mask.
    """
    mel = window_mel(samples, plan.seconds)[None, :, None, :]
    ids = torch.tensor([[tokens[i % len(tokens)] for i in range(plan.sequence)]])
    decoder: Any = model.decoder
    features: np.ndarray = model.encoder(torch.from_numpy(mel)).numpy()  # type: ignore[operator]
    logits: np.ndarray = decoder(ids, torch.from_numpy(features)).numpy()
    onnx_features = open_session(folder / ENCODER).run([FEATURES], {MEL: mel})[0]
    session = open_session(folder / DECODER)
    # The decoder gets the torch features, so that each graph is judged alone.
    onnx_logits = _run_decoder(session, features, _embed(decoder, ids))
    check = ExportCheck(
        feature_error=float(np.abs(onnx_features - features).max()),
        logit_error=float(np.abs(onnx_logits - logits).max()),
        feature_snr_db=signal_to_noise(features, onnx_features),
        logit_snr_db=signal_to_noise(logits, onnx_logits),
        argmax_equal=bool((onnx_logits.argmax(-1) == logits.argmax(-1)).all()),
    )
    # Written so that a NaN fails too.
    if not (min(check.feature_snr_db, check.logit_snr_db) >= SNR_TOLERANCE_DB and check.argmax_equal):
        raise ExportError(
            f"the exported graphs differ from the torch model: SNR of the features {check.feature_snr_db:.0f} dB, of "
            f"the logits {check.logit_snr_db:.0f} dB (at least {SNR_TOLERANCE_DB:.0f} wanted), same most likely token "
            f"at every position: {check.argmax_equal}"
        )
    # Any tokens will do.
    anything = torch.from_numpy(np.random.default_rng(0).integers(0, plan.dims.n_vocab, (1, plan.sequence)))
    leak = _leak(session, features, _embed(decoder, anything))
    if not leak <= CAUSAL_TOLERANCE:
        raise ExportError(
            f"the decoder sees what stands in later slots: the logits of earlier ones change by {leak:.2g} (at most "
            f"{CAUSAL_TOLERANCE:g} wanted), so its attention scores outweigh the causal mask"
        )
    return check


def _embed(decoder: Any, ids: torch.Tensor) -> np.ndarray:
    """Token ids (1, n) as the decoder's graph takes them: embeddings (1, d, n, 1)."""
    embedded = decoder.token_embedding(ids) + decoder.positional_embedding[: ids.shape[1]]
    return np.ascontiguousarray(embedded.numpy().transpose(0, 2, 1)[..., None])


def _run_decoder(session: Any, features: np.ndarray, embedded: np.ndarray) -> np.ndarray:
    """The decoder graph's logits (1, n, vocab)."""
    return np.concatenate(session.run(list(LOGITS), {FEATURES: features, TOKEN_EMBEDDINGS: embedded}), axis=-1)


def _leak(session: Any, features: np.ndarray, embedded: np.ndarray) -> float:
    """By how much the logits of slots change at most once the later ones are empty."""
    full = _run_decoder(session, features, embedded)
    slots = embedded.shape[2]
    changes = []
    for filled in (slots // 2, max(1, slots // 8)):
        early = embedded.copy()
        early[:, :, filled:] = 0.0
        changes.append(np.abs(_run_decoder(session, features, early) - full)[:, :filled].max())
    return float(np.max(changes))  # NaN if one is
