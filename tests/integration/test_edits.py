"""The edits: found by symbols, nothing else touched, nothing changed for the app's own models, unknown code refused."""

import ast
import io
import tokenize

import pytest

from integration.app import App, describe, fingerprint
from integration.edits import CLI, DOWNLOADER, GUI, PIPELINE, REGISTRY, edit_app, stock_variants
from integration.errors import UnknownLayoutError
from integration.registration import Registration

TINY_EN = Registration("tiny.en", "hailo8", "whisper-tiny.en-10s-seq32-hailo8", "0.1.0+1", False)
TINY = Registration("tiny-bundle", "hailo8", "whisper-tiny-10s-seq32-hailo8", "0.1.0+2", True)
BASE_EN = Registration("base.en", "hailo8l", "whisper-base.en-5s-seq24-hailo8l", "0.1.0+3", False)
BUNDLES = (BASE_EN, TINY, TINY_EN)


@pytest.fixture
def vendor(app_dir):
    app = App.find(app_dir)
    return {path: (app.root / path).read_bytes() for path in app.edited}


class WithoutBundle(ast.NodeTransformer):
    """What is left of a file where `bundle` is None."""

    def visit_IfExp(self, node):
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test).endswith(".bundle") else node

    def visit_If(self, node):
        self.generic_visit(node)
        return None if ast.unparse(node.test).endswith(".bundle") else node

    def visit_ImportFrom(self, node):
        return None if node.module == "whisper_bundle" else node

    def visit_Assign(self, node):
        self.generic_visit(node)
        return None if ast.unparse(node.targets[0]) == "self.bundle" else node

    def visit_Call(self, node):
        self.generic_visit(node)
        if ast.unparse(node) == "bool(self.bundle)":
            return ast.Constant(False)
        if ast.unparse(node) == "len(start_token_id)":
            return ast.Constant(1)
        if ast.unparse(node.func) == "range" and ast.unparse(node.args[0]) == "1 - 1":
            del node.args[0]
        if ast.unparse(node.func) == "np.array" and ast.unparse(node.args[0]) == "[start_token_id]":
            node.args[0] = ast.parse("[[start_token_id[0]]]", mode="eval").body
        node.keywords = [k for k in node.keywords if (k.arg, ast.unparse(k.value)) != ("daemon", "None")]
        return node


@pytest.mark.parametrize("path", [PIPELINE, CLI, GUI])
def test_without_a_bundle_the_code_is_the_vendors(vendor, path):
    edited = edit_app(vendor, ())[path] if path != PIPELINE else edit_app(vendor, BUNDLES)[path]
    assert edited != vendor[path]
    assert ast.dump(WithoutBundle().visit(ast.parse(edited))) == ast.dump(ast.parse(vendor[path]))


def test_comments_and_untouched_lines_stay(vendor):
    for path, edited in edit_app(vendor, BUNDLES).items():

        def comments(data):
            return [
                token.string for token in tokenize.tokenize(io.BytesIO(data).readline) if token.type == tokenize.COMMENT
            ]

        assert comments(edited) == comments(vendor[path])
        lost = set(vendor[path].splitlines()) - set(edited.splitlines())
        assert len(lost) <= 14


def evaluated(data, name, tmp_path):
    namespace = {"__file__": str(tmp_path / "app" / "registry.py"), "__name__": "registry"}
    tree = ast.parse(data)
    wanted = [n for n in tree.body if isinstance(n, ast.Assign | ast.Import | ast.ImportFrom)]
    wanted = [n for n in wanted if not (isinstance(n, ast.ImportFrom) and n.module.startswith("hailo_apps"))]
    exec(compile(ast.Module(wanted, []), "registry", "exec"), namespace)
    return namespace[name]


def test_the_registry_has_the_bundles_besides_what_it_had(vendor, tmp_path):
    before = evaluated(vendor[REGISTRY], "HEF_REGISTRY", tmp_path)
    after = evaluated(edit_app(vendor, BUNDLES)[REGISTRY], "HEF_REGISTRY", tmp_path)
    entry = after["tiny.en"].pop("hailo8")
    assert entry["encoder"].endswith("app/whisper_bundles/whisper-tiny.en-10s-seq32-hailo8-0.1.0+1/encoder.hef")
    assert entry["encoder"].startswith("/") == before["base"]["hailo8"]["encoder"].startswith("/")
    assert "EMULATED" not in entry["bundle"]
    emulated = after.pop("tiny-bundle")["hailo8"]
    assert emulated["decoder"].endswith("/decoder.emulated.onnx")
    assert "EMULATED" in emulated["bundle"]
    assert list(after.pop("base.en")) == ["hailo8l"]
    assert after == before


def test_the_downloader_knows_that_there_is_nothing_to_fetch(vendor, tmp_path):
    before = evaluated(vendor[DOWNLOADER], "FILES", tmp_path)
    after = evaluated(edit_app(vendor, BUNDLES)[DOWNLOADER], "FILES", tmp_path)
    assert after["hefs"]["hailo8"].pop("tiny.en") == after["hefs"]["hailo8"].pop("tiny-bundle") == []
    assert after["hefs"]["hailo8l"].pop("base.en") == []
    assert after["assets"].pop("tiny-bundle") == after["assets"].pop("base.en") == []
    after["assets"].pop("tiny.en")
    before["assets"].pop("tiny.en", None)
    assert after == before


@pytest.mark.parametrize("path", [CLI, GUI, DOWNLOADER])
def test_the_choices_have_the_variants_once(vendor, path):
    edited = edit_app(vendor, BUNDLES)[path].decode()
    (choices,) = (
        ast.literal_eval(keyword.value)
        for node in ast.walk(ast.parse(edited))
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.args[0]) == "'--variant'"
        for keyword in node.keywords
        if keyword.arg == "choices"
    )
    assert {"base", "tiny", "tiny.en", "tiny-bundle", "base.en"} == set(choices)
    assert len(choices) == len(set(choices))


def test_windows_line_ends_stay(vendor):
    crlf = {path: data.replace(b"\n", b"\r\n") for path, data in vendor.items()}
    edited, plain = edit_app(crlf, BUNDLES), edit_app(vendor, BUNDLES)
    assert edited == {path: data.replace(b"\n", b"\r\n") for path, data in plain.items()}


@pytest.mark.parametrize(
    ("path", "old", "new", "named"),
    [
        (PIPELINE, "class HailoWhisperPipeline", "class Pipeline", "one class HailoWhisperPipeline"),
        (PIPELINE, "def _inference_loop", "def _loop", "HailoWhisperPipeline._inference_loop"),
        (PIPELINE, "start_token_id = [50258]", "start_token_id = 50258", "start_token_id = [one token]"),
        (
            PIPELINE,
            "start_token_id = [50258]",
            "start = [50258]",
            "one assignment to start_token_id in _inference_loop",
        ),
        (PIPELINE, "[[start_token_id[0]]]", "[[50258]]", "decoder_input_ids = np.array"),
        (PIPELINE, "range(self.decoding_sequence_length - 1)", "range(31)", "for i in range"),
        (PIPELINE, "self.timeout_ms =", "self.timeout =", "self.timeout_ms in __init__"),
        (PIPELINE, "self._tokenization(", "self._embed(", "one call of self._tokenization"),
        (PIPELINE, "decoder_model_path: str", "decoder: str", "an argument decoder_model_path"),
        (PIPELINE, "Thread(target=self._inference_loop)", "start_thread()", "self.thread = Thread"),
        (PIPELINE, "def get_transcription", "def transcription", "HailoWhisperPipeline.get_transcription"),
        (REGISTRY, "HEF_REGISTRY =", "REGISTRY =", "one assignment to HEF_REGISTRY"),
        (REGISTRY, "hefs/", "models/", "HEF_REGISTRY with paths in hefs/"),
        (CLI, '"--variant"', '"--model"', "add_argument('--variant')"),
        (CLI, "def main", "def run", "one function main"),
        (CLI, "improve_input_audio(sampled_audio", "improve(sampled_audio", "improve_input_audio"),
        (GUI, "HailoWhisperPipeline(", "Pipeline(", "HailoWhisperPipeline(...)"),
        (GUI, "def process_and_transcribe", "def transcribe", "process_and_transcribe"),
        (DOWNLOADER, "FILES =", "URLS =", "one assignment to FILES"),
        (CLI, "def main():", "def main(:", "not Python that can be parsed"),
    ],
)
def test_a_changed_symbol_is_named(vendor, path, old, new, named):
    text = vendor[path].decode()
    assert old in text
    with pytest.raises(UnknownLayoutError) as caught:
        edit_app({**vendor, path: text.replace(old, new).encode()}, BUNDLES)
    assert path in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_add_embed_that_is_computed_is_refused(examples_app):
    app = App.find(examples_app)
    files = {path: (app.root / path).read_bytes() for path in app.edited}
    files[PIPELINE] = files[PIPELINE].replace(b"add_embed=False", b"add_embed=self.variant")
    with pytest.raises(UnknownLayoutError, match="add_embed=True or False"):
        edit_app(files, BUNDLES)


def test_stock_variants_are_read_without_running_the_registry(vendor):
    assert stock_variants(vendor[REGISTRY])["tiny.en"] == ("hailo10h",)


def test_the_revision_is_said(vendor):
    assert len(fingerprint(vendor)) == 16
    assert describe(vendor).startswith(("Hailo-Application-Code-Examples", "hailo-apps"))
