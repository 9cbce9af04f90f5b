"""Model scripts: the commands of FACTS section 2, which are those of the reference flow's .alls files."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hailo_sdk_client._exceptions import AllocatorScriptParserException, BackendScriptParserException

COMMAND = re.compile(r"(\w+)\((.*)\)")
NAME = re.compile(r"[\w./]+")
GLOB = re.compile(r"\{[\w./*]+\}")
POLICY = ("enabled", "disabled")
PRECISIONS = {"a8_w8": (8, 8), "a8_w4": (8, 4), "a16_w16": (16, 16)}  # the public model zoo uses these


def whole(low: int, high: int = 10**9) -> range:
    """The whole numbers that an argument takes."""
    return range(low, high + 1)


# command or (command, first argument) -> what each keyword takes: whole numbers, one of several words, a real number
# of (0, 1] (plain decimals, as in every public script; an exponent is refused), or "layers".
ARGUMENTS: dict[str | tuple[str, str], dict[str, Any]] = {
    "model_optimization_flavor": {"optimization_level": whole(0, 4), "compression_level": whole(0, 5)},
    ("model_optimization_config", "calibration"): {"batch_size": whole(1), "calibset_size": whole(1)},
    ("model_optimization_config", "checker_cfg"): {"policy": POLICY},
    ("post_quantization_optimization", "finetune"): {
        "policy": POLICY,
        "dataset_size": whole(1),
        "epochs": whole(1),
        "learning_rate": float,
        "batch_size": whole(1),
    },
    ("pre_quantization_optimization", "ew_add_fusing"): {"policy": POLICY},
    ("pre_quantization_optimization", "matmul_correction"): {
        "layers": "layers",
        "correction_type": ("zp_comp_block", "zp_comp_weights", "zp_comp_none"),
    },
    ("pre_quantization_optimization", "matmul_equalization"): {"layers": "layers", "matmul_bias": POLICY},
    ("pre_quantization_optimization", "layer_norm_decomposition"): {
        "bit_decomposition_mode": ("uniform_precision",),
        "equalization": POLICY,
    },
    "performance_param": {"optimize_for_batch": whole(1), "compiler_optimization_level": ("0", "1", "2", "max")},
    "resources_param": {"max_utilization": float},
}


@dataclass(frozen=True)
class Script:
    """A parsed model script.

    Attributes:
        text: the script.
        options: by command, or command and first argument joined by a blank: the keywords given; the last line wins.
        precision: layer -> its precision mode, of those that have one.
    """

    text: str
    options: dict[str, dict[str, Any]]
    precision: dict[str, str]

    def option(self, command: str, keyword: str, default: Any) -> Any:
        """Value of a keyword, or `default`."""
        return self.options.get(command, {}).get(keyword, default)

    def bits(self, layer: str) -> tuple[int, int]:
        """Bits of the layer's activations and weights."""
        return PRECISIONS[self.precision.get(layer, "a8_w8")]


def parse(text: str, layers: Sequence[str]) -> Script:
    """Parse a script for a network with `layers` (full names).

    Raises BackendScriptParserException for a line that is no command (the text is from a public traceback), and
    AllocatorScriptParserException for a command, argument, value or layer that there is not (text documented only).
    """
    options: dict[str, dict[str, Any]] = {}
    precision: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = COMMAND.fullmatch(line)
        if match is None or not balanced(match[2]):
            raise BackendScriptParserException(f"Parsing failed at:\n>!<{line}")
        command, arguments = match[1], split(match[2])
        if any(not argument for argument in arguments):
            raise BackendScriptParserException(f"Parsing failed at:\n>!<{line}")
        positional = [argument for argument in arguments if "=" not in argument]
        pairs = [argument.split("=", 1) for argument in arguments if "=" in argument]
        keywords = {key.strip(): value.strip() for key, value in pairs}
        if arguments[: len(positional)] != positional or len(keywords) != len(pairs):
            raise BackendScriptParserException(f"Parsing failed at:\n>!<{line}")
        if command == "quantization_param":
            if len(positional) != 1 or list(keywords) != ["precision_mode"]:
                raise AllocatorScriptParserException(f"quantization_param takes layers and precision_mode: {line}")
            if keywords["precision_mode"] not in PRECISIONS:
                raise AllocatorScriptParserException(f"{keywords['precision_mode']!r} is no precision mode: {line}")
            precision.update(dict.fromkeys(find_layers(positional[0], layers, line), keywords["precision_mode"]))
            continue
        names = {name if isinstance(name, str) else name[0] for name in ARGUMENTS}
        if command not in names:
            raise AllocatorScriptParserException(f"Unknown command {command!r}: {line}")
        key: str | tuple[str, str] = (command, positional[0]) if len(positional) == 1 else command
        if len(positional) > 1 or key not in ARGUMENTS:
            raise AllocatorScriptParserException(f"{command} does not take {positional}: {line}")
        values = options.setdefault(key if isinstance(key, str) else " ".join(key), {})
        for keyword, value in keywords.items():
            if keyword not in ARGUMENTS[key]:
                raise AllocatorScriptParserException(f"{command} has no argument {keyword!r}: {line}")
            values[keyword] = convert(value, ARGUMENTS[key][keyword], layers, line)
    return Script(text, options, precision)


def balanced(text: str) -> bool:
    """Whether brackets are closed in order."""
    open_brackets = []
    for letter in text:
        if letter in "([{":
            open_brackets.append(letter)
        elif letter in ")]}" and (not open_brackets or open_brackets.pop() + letter not in ("()", "[]", "{}")):
            return False
    return not open_brackets


def split(text: str) -> list[str]:
    """Arguments, separated by commas outside brackets."""
    parts = re.split(r",(?![^\[{]*[\]}])", text)
    return [part.strip() for part in parts] if text.strip() else []


def convert(value: str, takes: Any, layers: Sequence[str], line: str) -> Any:
    """A value as its argument takes it. Raises AllocatorScriptParserException."""
    if takes == "layers":
        return find_layers(value, layers, line)
    if isinstance(takes, tuple) and value in takes:
        return value
    if isinstance(takes, range) and re.fullmatch(r"\d+", value) and int(value) in takes:
        return int(value)
    if takes is float and re.fullmatch(r"\d*\.?\d+", value) and 0 < float(value) <= 1:
        return float(value)
    raise AllocatorScriptParserException(f"bad value {value!r}: {line}")


def find_layers(text: str, layers: Sequence[str], line: str) -> list[str]:
    """Layers by name, `{glob*}` or `[a, b]`, with or without the net's name before them.

    Raises AllocatorScriptParserException for a name or glob that matches nothing.
    """
    if text.startswith("[") and text.endswith("]"):
        return [name for part in split(text[1:-1]) for name in find_layers(part, layers, line)]
    if GLOB.fullmatch(text):
        found = [name for name in layers if fnmatch.fnmatchcase(name.split("/", 1)[1], text[1:-1])]
        found += [name for name in layers if fnmatch.fnmatchcase(name, text[1:-1]) and name not in found]
    elif NAME.fullmatch(text):
        found = [name for name in layers if text in (name, name.split("/", 1)[1])]
    else:
        raise BackendScriptParserException(f"Parsing failed at:\n>!<{line}")
    if not found:
        raise AllocatorScriptParserException(f"Layer {text} is not found in the network: {line}")
    return found
