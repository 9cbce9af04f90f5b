"""Writes a checkpoint as the folder that faster-whisper loads: a CTranslate2 model and a tokenizer, without any hub.

    PYTHONPATH=runtime build/benchmarks/venv/bin/python benchmarks/speed_ct2.py CHECKPOINT RANKS FOLDER

Runs in the interpreter that has faster-whisper (benchmarks/requirements.txt); speed.py calls it. CHECKPOINT is the
fetch stage's checkpoint.safetensors, RANKS the tokenizer's ranks out of openai-whisper. Weights stay in float16, as in
the models that faster-whisper's users download; they become int8 when they are loaded.
"""

import base64
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from ctranslate2.specs import WhisperSpec
from ctranslate2.specs.common_spec import LayerNormSpec, LinearSpec
from faster_whisper.tokenizer import Tokenizer as PromptTokenizer
from faster_whisper.transcribe import get_suppressed_tokens
from safetensors.numpy import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from whisper_runtime.tokenizer import LANGUAGES

HEAD_WIDTH = 64  # of every Whisper model
TIMESTAMPS = 1501

State = dict[str, np.ndarray]


def fill_model(spec: WhisperSpec, state: State) -> None:
    """Put a state dict of openai-whisper's names into CTranslate2's layout."""
    for index in (1, 2):
        convolution = getattr(spec.encoder, f"conv{index}")
        convolution.weight = state[f"encoder.conv{index}.weight"]
        convolution.bias = state[f"encoder.conv{index}.bias"]
    for name, part, last_norm in (("encoder", spec.encoder, "ln_post"), ("decoder", spec.decoder, "ln")):
        part.position_encodings.encodings = state[f"{name}.positional_embedding"]
        _fill_norm(part.layer_norm, state, f"{name}.{last_norm}")
        for index, layer in enumerate(part.layer):
            block = f"{name}.blocks.{index}"
            _fill_norm(layer.self_attention.layer_norm, state, f"{block}.attn_ln")
            _fill_linear(
                layer.self_attention.linear[0], state, *(f"{block}.attn.{p}" for p in ("query", "key", "value"))
            )
            _fill_linear(layer.self_attention.linear[1], state, f"{block}.attn.out")
            if name == "decoder":
                _fill_norm(layer.attention.layer_norm, state, f"{block}.cross_attn_ln")
                _fill_linear(layer.attention.linear[0], state, f"{block}.cross_attn.query")
                _fill_linear(layer.attention.linear[1], state, f"{block}.cross_attn.key", f"{block}.cross_attn.value")
                _fill_linear(layer.attention.linear[2], state, f"{block}.cross_attn.out")
            _fill_norm(layer.ffn.layer_norm, state, f"{block}.mlp_ln")
            _fill_linear(layer.ffn.linear_0, state, f"{block}.mlp.0")
            _fill_linear(layer.ffn.linear_1, state, f"{block}.mlp.2")
    spec.decoder.embeddings.weight = state["decoder.token_embedding.weight"]
    spec.decoder.projection.weight = state["decoder.token_embedding.weight"]


def _fill_norm(norm: LayerNormSpec, state: State, name: str) -> None:
    norm.gamma, norm.beta = state[f"{name}.weight"], state[f"{name}.bias"]


def _fill_linear(linear: LinearSpec, state: State, *names: str) -> None:
    """Stack layers that have the same input. Keys have no bias: zeros."""
    weights = [state[f"{name}.weight"] for name in names]
    biases = [
        state.get(f"{name}.bias", np.zeros(len(weight), weight.dtype))
        for name, weight in zip(names, weights, strict=True)
    ]
    linear.weight, linear.bias = np.concatenate(weights), np.concatenate(biases)


def byte_signs() -> list[str]:
    """The sign that stands for each byte in the tokens of GPT-2's kind: itself if it shows, else one from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


def make_tokenizer(ranks: dict[bytes, int], multilingual: bool) -> Tokenizer:
    """A tokenizer of the package `tokenizers` with the same tokens and the same numbers."""
    signs = byte_signs()
    shown = {token: "".join(signs[byte] for byte in token) for token in ranks}
    merges = [
        tuple(shown[half] for half in last_merge(token, rank, ranks))
        for token, rank in sorted(ranks.items(), key=lambda entry: entry[1])
        if len(token) > 1
    ]
    tokenizer = Tokenizer(models.BPE({shown[token]: rank for token, rank in ranks.items()}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    languages = list(LANGUAGES)[:99]  # the .en models have their numbers too; the 100th came with large-v3
    names = ["endoftext", "startoftranscript", *languages]
    names += ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    names += [f"{0.02 * step:.2f}" for step in range(TIMESTAMPS)]
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", normalized=False) for name in names])
    expected = 51865 if multilingual else 51864
    if tokenizer.get_vocab_size() != expected:
        raise SystemExit(f"the tokenizer has {tokenizer.get_vocab_size()} tokens and not {expected}")
    return tokenizer


def last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> list[bytes]:
    """The two halves that a token is merged from: what byte-pair encoding by the ranks before it leaves."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] >= rank:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    if len(parts) != 2:
        raise SystemExit(f"the ranks are damaged: {token!r} is not made of two tokens")
    return parts


def main() -> None:
    """Write the folder."""
    checkpoint, ranks_file, folder = map(Path, sys.argv[1:])
    state = load_file(checkpoint)
    lines = ranks_file.read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    multilingual = len(state["decoder.token_embedding.weight"]) >= 51865
    tokenizer = make_tokenizer(ranks, multilingual)
    heads = state["encoder.positional_embedding"].shape[1] // HEAD_WIDTH
    layers = [
        sum(f"{part}.blocks.{index}.mlp_ln.bias" in state for index in range(99)) for part in ("encoder", "decoder")
    ]
    spec = WhisperSpec(layers[0], heads, layers[1], heads)
    fill_model(spec, state)
    spec.register_vocabulary([tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())])
    prompt = PromptTokenizer(tokenizer, multilingual, "transcribe", "en")
    spec.config.suppress_ids = list(get_suppressed_tokens(prompt, [-1]))
    spec.config.suppress_ids_begin = [*tokenizer.encode(" ").ids, prompt.eot]
    spec.config.lang_ids = (
        [tokenizer.token_to_id(f"<|{code}|>") for code in list(LANGUAGES)[:99]] if multilingual else []
    )
    # For the times of words, which are not asked for. CTranslate2's own converter takes these where it knows no better.
    spec.config.alignment_heads = [(layer, head) for layer in range(layers[1] // 2, layers[1]) for head in range(heads)]
    spec.validate()
    spec.optimize("float16")
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    main()
