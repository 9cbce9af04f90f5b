"""What changes in the app's files, and where: each edit finds its place by the symbols around it.

With `bundle` None, which it is for each of the app's own models, every edit leaves what was there before. What each
one cures stands in README.md.
"""

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

from integration.python_source import PythonSource, assignments, is_call
from integration.registration import FOLDER, Registration

CLI = "app/app_hailo_whisper.py"
PIPELINE = "app/hailo_whisper_pipeline.py"
REGISTRY = "app/whisper_hef_registry.py"
GUI = "gui/gui.py"
DOWNLOADER = "app/download_resources.py"

SHORTEST_OFFSET = 0.2
"""Seconds that the GUI goes back from where it heard speech begin, without looking whether there are so many."""


def edit_app(files: Mapping[str, bytes], registrations: Sequence[Registration]) -> dict[str, bytes]:
    """Return the app's files as they are with these bundles installed.

    Args:
        files: the vendor's files by their paths within the app, as the vendor made them; without `DOWNLOADER` where
            the app has none in Python.
        registrations: the bundles.

    Raises:
        UnknownLayoutError: a symbol is missing or different; the message names it.
    """
    editors: dict[str, Callable[[PythonSource, Sequence[Registration]], None]] = {
        CLI: _edit_cli,
        PIPELINE: _edit_pipeline,
        REGISTRY: _edit_registry,
        GUI: _edit_gui,
        DOWNLOADER: _edit_downloader,
    }
    edited = {}
    for path, data in files.items():
        source = PythonSource(path, data)
        editors[path](source, registrations)
        edited[path] = source.edited()
    return edited


def stock_variants(registry: bytes) -> dict[str, tuple[str, ...]]:
    """The architectures that the app's registry has for each variant. Raises UnknownLayoutError."""
    source = PythonSource(REGISTRY, registry)
    variants = _dictionary(source, source.assignment("HEF_REGISTRY", source.tree).value, "HEF_REGISTRY")
    return {
        variant: tuple(_dictionary(source, value, f"HEF_REGISTRY['{variant}']")) for variant, value in variants.items()
    }


def known_architectures(cli: bytes) -> tuple[str, ...]:
    """What the app's `--hw-arch` takes. Raises UnknownLayoutError."""
    source = PythonSource(CLI, cli)
    return tuple(_choices(source, "--hw-arch"))


def _edit_pipeline(source: PythonSource, _: Sequence[Registration]) -> None:
    pipeline = source.class_named("HailoWhisperPipeline")
    imports = [s for s in source.tree.body if isinstance(s, ast.Import | ast.ImportFrom | ast.Try)]
    if not imports:
        raise source.unknown("imports at the top")
    source.lines_after(imports[-1], ["from .whisper_bundle import bundle_of"])

    start = source.function("__init__", pipeline)
    if "decoder_model_path" not in [argument.arg for argument in start.args.args]:
        raise source.unknown("HailoWhisperPipeline.__init__ with an argument decoder_model_path")
    first = start.body[1] if ast.get_docstring(start) is not None else start.body[0]
    source.lines_before(first, ["self.bundle = bundle_of(decoder_model_path)"])
    _unless_bundle(source, source.assignment("self.timeout_ms", start, "__init__").value, "self.bundle.timeout_ms")
    length = source.assignment("self.decoding_sequence_length", start, "__init__").value
    if not (isinstance(length, ast.Constant) and length.value is None):  # None: the loop reads it from the model
        _unless_bundle(source, length, "self.bundle.sequence")
    thread = source.assignment("self.thread", start, "__init__").value
    if not (isinstance(thread, ast.Call) and is_call(thread, "Thread") and thread.keywords):
        raise source.unknown("self.thread = Thread(target=...) in __init__")
    source.after(thread.keywords[-1], ", daemon=True if self.bundle else None")

    for method, attribute in (
        ("_load_token_embedding_weight", "token_embedding_weight"),
        ("_load_onnx_add_input", "onnx_add_input"),
    ):
        _unless_bundle(source, _returned(source, pipeline, method), f"self.bundle.{attribute}")
    loading = source.function("_load_tokenizer", pipeline)
    tokenizer = source.assignment("self.tokenizer", loading, "_load_tokenizer").value
    _unless_bundle(source, tokenizer, "self.bundle.tokenizer")
    result = _returned(source, pipeline, "get_transcription")
    _unless_bundle(source, result, "self.bundle.wait_for_transcription(self)")
    _edit_loop(source, pipeline)


def _edit_loop(source: PythonSource, pipeline: ast.ClassDef) -> None:
    """The prompt may have several tokens; decoding begins behind its last one."""
    loop = source.function("_inference_loop", pipeline)
    prompt = source.assignment("start_token_id", loop, "_inference_loop").value
    if not (isinstance(prompt, ast.List) and len(prompt.elts) == 1):
        raise source.unknown("start_token_id = [one token] in _inference_loop")
    _unless_bundle(source, prompt, "self.bundle.prompt")

    ids = ast.Module(list(assignments("decoder_input_ids", loop)), [])
    one_token = source.one(
        ast.List,
        ids,
        lambda node: ast.unparse(node) == "[start_token_id[0]]",
        "decoder_input_ids = np.array([[start_token_id[0]]]) in _inference_loop",
    )
    source.replace(one_token, "start_token_id")
    # What fills the slots behind the prompt, and the number of steps: both are one less than the slots.
    filler = source.one(
        ast.BinOp, ids, lambda node: _is_one_less(node), "decoder_input_ids filled up to decoding_sequence_length - 1"
    )
    source.replace(filler.right, "len(start_token_id)")
    steps = source.one(
        ast.Call,
        loop,
        lambda node: is_call(node, "range") and len(node.args) == 1 and _is_one_less(node.args[0]),
        "for i in range(self.decoding_sequence_length - 1) in _inference_loop",
    )
    source.before(steps.args[0], "len(start_token_id) - 1, ")

    embed = source.one(
        ast.Call, loop, lambda node: is_call(node, "self._tokenization"), "one call of self._tokenization"
    )
    takes = [argument.arg for argument in source.function("_tokenization", pipeline).args.args]
    given = {keyword.arg: keyword.value for keyword in embed.keywords}
    if "add_embed" in takes:
        value = given.get("add_embed")
        if not (isinstance(value, ast.Constant) and isinstance(value.value, bool)):
            raise source.unknown("self._tokenization(..., add_embed=True or False) in _inference_loop")
        if value.value is False:
            source.replace(value, "bool(self.bundle)")
    elif given:
        raise source.unknown("self._tokenization(decoder_input_ids) in _inference_loop")


def _edit_cli(source: PythonSource, registrations: Sequence[Registration]) -> None:
    _add_choices(source, registrations)
    main = source.function("main")
    pipeline = _pipeline(source, main)
    length = source.assignment("chunk_length", main, "main").value
    if isinstance(length, ast.IfExp):
        _unless(source, length, f"{pipeline}.bundle.seconds", f"{pipeline}.bundle")
    elif ast.unparse(length) != f"{pipeline}.get_model_input_audio_length()":
        raise source.unknown("chunk_length from the variant or from the pipeline in main")

    listening, start_time = _speech_start(source, main)
    source.one(ast.While, main, lambda node: listening in ast.walk(node), "improve_input_audio in the loop of main")
    reuse = source.one(
        ast.If, main, lambda node: _is_reuse(node) and node.lineno < listening.lineno, "if ...reuse_audio"
    )
    source.lines_after(
        listening,
        [
            f"if {start_time} is None and {pipeline}.bundle:",
            '    print("No speech detected.")',
            f"    if {source.text(reuse.test)}:",
            "        break",
            "    continue",
        ],
    )


def _edit_gui(source: PythonSource, registrations: Sequence[Registration]) -> None:
    _add_choices(source, registrations)
    pipeline = _pipeline(source, source.tree)
    transcribe = source.function("process_and_transcribe")
    features = source.one(ast.Call, transcribe, lambda node: is_call(node, "preprocess"), "one call of preprocess")
    length = next((item.value for item in features.keywords if item.arg == "chunk_length"), None)
    if length is None or not list(assignments(ast.unparse(length), source.tree)):
        raise source.unknown("preprocess(..., chunk_length=...) with something that is assigned elsewhere")
    opened = source.assignment(pipeline, source.tree)
    source.lines_after(opened, [f"if {pipeline}.bundle:", f"    {ast.unparse(length)} = {pipeline}.bundle.seconds"])
    listening, start_time = _speech_start(source, transcribe)
    source.lines_after(
        listening,
        [
            f"if {pipeline}.bundle:",
            f"    if {start_time} is None:",
            "        return []",
            f"    {start_time} = max({start_time}, {SHORTEST_OFFSET})",
        ],
    )


def _edit_registry(source: PythonSource, registrations: Sequence[Registration]) -> None:
    registry = source.assignment("HEF_REGISTRY", source.tree).value
    variants = _dictionary(source, registry, "HEF_REGISTRY")
    model = next((node for node in ast.walk(registry) if _is_model_path(node)), None)
    if model is None:
        raise source.unknown("HEF_REGISTRY with paths in hefs/")
    # A path is written as the others are: relative to the app, or behind an expression that finds the app.
    written = next(value for value in _values(registry) if model in ast.walk(value))
    folder = ast.literal_eval(model).partition("hefs/")[0]

    def path(registration: Registration, file: str) -> str:
        literal = json.dumps(f"{folder}{registration.folder.relative_to(FOLDER.parent)}/{file}")
        return source.text(written).replace(source.text(model), literal)

    def entry(registration: Registration, indent: str) -> str:
        models = registration.models.items()
        lines = [f"{indent}    {json.dumps(part)}: {path(registration, file)}," for part, file in models]
        lines.append(f'{indent}    "bundle": {json.dumps(registration.note)},')
        return "\n".join([f"{indent}{json.dumps(registration.arch)}: {{", *lines, f"{indent}}}"])

    for variant in dict.fromkeys(item.variant for item in registrations):
        ours = [item for item in registrations if item.variant == variant]
        architectures = variants.get(variant)
        if isinstance(architectures, ast.Dict):
            _append(source, architectures, [entry(item, _indent(architectures)) for item in ours])
        else:
            indent = _indent(registry)
            entries = "".join(entry(item, indent + "    ") + ",\n" for item in ours)
            _append(source, registry, [f"{indent}{json.dumps(variant)}: {{\n{entries}{indent}}}"])


def _edit_downloader(source: PythonSource, registrations: Sequence[Registration]) -> None:
    """There is nothing to download for a bundle; the downloader knows that instead of calling it unavailable."""
    _add_choices(source, registrations)
    files = _dictionary(source, source.assignment("FILES", source.tree).value, "FILES")
    if not {"hefs", "assets"} <= set(files):
        raise source.unknown("FILES with 'hefs' and 'assets'")
    hefs = _dictionary(source, files["hefs"], "FILES['hefs']")
    for arch in dict.fromkeys(item.arch for item in registrations):
        if arch not in hefs:
            raise source.unknown(f"FILES['hefs'] with '{arch}'")
        _add_empty(source, hefs[arch], [item.variant for item in registrations if item.arch == arch])
    _add_empty(source, files["assets"], [item.variant for item in registrations])


def _add_empty(source: PythonSource, node: ast.expr, variants: Sequence[str]) -> None:
    present = _dictionary(source, node, "FILES")
    indent = _indent(node)
    new = [variant for variant in dict.fromkeys(variants) if variant not in present]
    _append(source, node, [f"{indent}{json.dumps(variant)}: []" for variant in new])


def _add_choices(source: PythonSource, registrations: Sequence[Registration]) -> None:
    choices = _choices(source, "--variant")
    new = [variant for variant in dict.fromkeys(item.variant for item in registrations) if variant not in choices]
    source.after(list(choices.values())[-1], "".join(f", {json.dumps(variant)}" for variant in new))


def _choices(source: PythonSource, option: str) -> dict[str, ast.expr]:
    """The choices of a command line option, each with the expression that it is written as."""
    parser = source.function("get_args")
    argument = source.one(
        ast.Call,
        parser,
        lambda node: (
            ast.unparse(node.func).endswith(".add_argument")
            and option in [item.value for item in node.args if isinstance(item, ast.Constant)]
        ),
        f"one add_argument('{option}') in get_args",
    )
    choices = next((item.value for item in argument.keywords if item.arg == "choices"), None)
    if not (isinstance(choices, ast.List | ast.Tuple) and choices.elts):
        raise source.unknown(f"add_argument('{option}', choices=[...]) in get_args")
    found = {str(item.value): item for item in choices.elts if isinstance(item, ast.Constant)}
    if len(found) != len(choices.elts):
        raise source.unknown(f"plain strings as choices of {option} in get_args")
    return {**found}


def _pipeline(source: PythonSource, scope: ast.AST) -> str:
    """What the pipeline is called, such as `whisper_hailo`."""
    opened = source.one(
        ast.Assign, scope, lambda node: is_call(node.value, "HailoWhisperPipeline"), "... = HailoWhisperPipeline(...)"
    )
    return ast.unparse(opened.targets[0])


def _speech_start(source: PythonSource, scope: ast.AST) -> tuple[ast.Assign, str]:
    """The statement that finds where speech starts, and what that is called; it is None for silence."""
    expected = "audio, start_time = improve_input_audio(...)"
    found = source.one(ast.Assign, scope, lambda node: is_call(node.value, "improve_input_audio"), expected)
    target = found.targets[0]
    if not (isinstance(target, ast.Tuple) and len(target.elts) == 2):
        raise source.unknown(expected)
    return found, ast.unparse(target.elts[1])


def _returned(source: PythonSource, scope: ast.ClassDef, method: str) -> ast.expr:
    expected = f"one return of a value in {method}"
    found = source.one(ast.Return, source.function(method, scope), lambda node: True, expected)
    if found.value is None:
        raise source.unknown(expected)
    return found.value


def _unless_bundle(source: PythonSource, value: ast.expr, instead: str) -> None:
    _unless(source, value, instead, "self.bundle")


def _unless(source: PythonSource, value: ast.expr, instead: str, bundle: str) -> None:
    """`instead` where there is a bundle, and what stood there where there is none."""
    if isinstance(value, ast.Lambda | ast.NamedExpr | ast.Tuple | ast.Starred):
        raise source.unknown(f"a plain value in line {value.lineno}")
    source.before(value, f"{instead} if {bundle} else ")


def _is_one_less(node: ast.AST) -> bool:
    return ast.unparse(node) == "self.decoding_sequence_length - 1"


def _is_reuse(node: ast.If) -> bool:
    return isinstance(node.test, ast.Attribute) and node.test.attr == "reuse_audio"


def _is_model_path(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and "hefs/" in node.value


def _values(registry: ast.expr) -> list[ast.expr]:
    """The expressions at the leaves: paths of the models."""
    if not isinstance(registry, ast.Dict):
        return [registry]
    return [leaf for value in registry.values for leaf in _values(value)]


def _dictionary(source: PythonSource, node: ast.expr, what: str) -> dict[str, ast.expr]:
    """The entries of a dictionary that is written out with plain keys."""
    if not (isinstance(node, ast.Dict) and node.values):
        raise source.unknown(f"{what} = {{...}} with entries")
    entries = {
        key.value: value
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    if len(entries) != len(node.values):
        raise source.unknown(f"{what} with plain strings as keys, each of them once")
    return entries


def _append(source: PythonSource, node: ast.expr, entries: Sequence[str]) -> None:
    """Put entries, each on lines of its own, behind a dictionary's last one, whatever comma stands there."""
    last = list(_dictionary(source, node, "a dictionary").values())[-1]
    source.after(last, "".join(f",\n{entry}" for entry in entries))


def _indent(node: ast.expr) -> str:
    """The indentation of a dictionary's entries."""
    key = node.keys[-1] if isinstance(node, ast.Dict) else None
    return " " * (0 if key is None else key.col_offset)
