"""A folder of transformers' WhisperForConditionalGeneration: config.json and safetensors weights.

Names: model.encoder.layers.i.self_attn.q_proj -> encoder.blocks.i.attn.query and so on; fc1, fc2 -> mlp.0,
mlp.2. `proj_out.weight` is tied to the token embedding. Source: transformers' `convert_openai_to_hf.py`,
read backwards.
"""

import re
from pathlib import Path

import numpy as np

from whisper_toolchain.checkpoints.json_file import read_object
from whisper_toolchain.checkpoints.plain_text import is_plain_name, shown
from whisper_toolchain.checkpoints.safetensors_file import read_safetensors
from whisper_toolchain.checkpoints.state import State
from whisper_toolchain.checkpoints.validation import require_dimensions
from whisper_toolchain.errors import CheckpointError
from whisper_toolchain.shape_plan import Dimensions

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_CONFIG_FIELDS = {
    "num_mel_bins": "n_mels",
    "max_source_positions": "n_audio_ctx",
    "encoder_attention_heads": "n_audio_head",
    "encoder_layers": "n_audio_layer",
    "vocab_size": "n_vocab",
    "max_target_positions": "n_text_ctx",
    "decoder_attention_heads": "n_text_head",
    "decoder_layers": "n_text_layer",
}
_TOP_LEVEL = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
}
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d{1,3})\.(.+)\.(weight|bias)")
_PARTS = {
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
} | {
    f"{theirs}.{projection}_proj": f"{ours}.{name}"
    for theirs, ours in (("self_attn", "attn"), ("encoder_attn", "cross_attn"))
    for projection, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out"))
}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: one, or the shards that its index names, sorted.

    Raises:
        CheckpointError: there are none, or the index is damaged or names a file outside of the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
        if pickles:
            raise CheckpointError(
                f"{folder}: holds {pickles[0]}, a pickle, but no {WEIGHTS}: save the model again with "
                "save_pretrained(folder, safe_serialization=True)"
            )
        raise CheckpointError(f"{folder}: holds neither {WEIGHTS} nor {INDEX}")
    return [folder / name for name in sorted(set(_weight_map(folder).values()))]


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX}: has no weight_map")
    for tensor, name in weight_map.items():
        if (
            not is_plain_name(tensor)
            or not isinstance(name, str)
            or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name)
        ):
            raise CheckpointError(
                f"{folder / INDEX}: names {shown(repr(name))}, not a safetensors file beside it: refused"
            )
    return weight_map


def read(path: Path, dims: Dimensions) -> State:
    """Read a Hugging Face folder into openai-whisper's names; bfloat16 becomes float32.

    Raises:
        CheckpointError: config.json or the safetensors weights are missing or damaged, of other dimensions,
            or with an output projection of their own.
    """
    _check_config(path, dims)
    state: State = {}
    stored: State = {}
    files = weight_files(path)
    weight_map = _weight_map(path) if files[0].name != WEIGHTS else None
    for file in files:
        for name, tensor in read_safetensors(file).items():
            if name in stored or (weight_map is not None and weight_map.get(name) != file.name):
                raise CheckpointError(f"{file}: {name} is not where {INDEX} says: the folder is damaged")
            stored[name] = tensor
    if weight_map is not None and (lost := sorted(set(weight_map) - set(stored))):
        raise CheckpointError(f"{path}: {INDEX} names {lost[0]}, which is not in its file")
    projection = stored.pop("proj_out.weight", None)
    for name, tensor in stored.items():
        ours = _renamed(name.removeprefix("model."))
        if ours in state:
            raise CheckpointError(f"{path}: two tensors stand for {ours}")
        state[ours] = tensor
    embedding = state.get("decoder.token_embedding.weight")
    if projection is not None and embedding is not None and not np.array_equal(projection, embedding):
        raise CheckpointError(
            f"{path}: proj_out.weight differs from the token embedding; openai-whisper has only the one"
        )
    return state


def _check_config(folder: Path, dims: Dimensions) -> None:
    where = folder / CONFIG
    config = read_object(where)
    if config.get("model_type", "whisper") != "whisper":
        raise CheckpointError(f"{where}: a model of type {shown(repr(config['model_type']))}, not whisper")
    found: dict[str, int] = {}
    for theirs, ours in _CONFIG_FIELDS.items():
        found[ours] = _integer(config.get(theirs), theirs, where)
    found["n_audio_state"] = found["n_text_state"] = _integer(config.get("d_model"), "d_model", where)
    require_dimensions(found, dims, where)
    for theirs, state in (("encoder_ffn_dim", dims.n_audio_state), ("decoder_ffn_dim", dims.n_text_state)):
        if config.get(theirs, 4 * state) != 4 * state:
            raise CheckpointError(f"{where}: {theirs} is {shown(config[theirs])} instead of {4 * state}")


def _integer(value: object, name: str, where: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"{where}: {name} is {shown(repr(value))}, not a number: not a Whisper configuration")
    return value


def _renamed(name: str) -> str:
    """openai-whisper's name; what has none is kept, to be reported as unexpected by the validation."""
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    if match := re.fullmatch(r"(encoder|decoder)\.layer_norm\.(weight|bias)", name):
        return f"{'encoder.ln_post' if match[1] == 'encoder' else 'decoder.ln'}.{match[2]}"
    match = _LAYER.fullmatch(name)
    if match and match[3] in _PARTS:
        return f"{match[1]}.blocks.{int(match[2])}.{_PARTS[match[3]]}.{match[4]}"
    return name
