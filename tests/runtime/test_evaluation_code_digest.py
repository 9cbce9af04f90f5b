"""Which code's change makes results void."""

import subprocess
import sys

from whisper_runtime.evaluation import code_digest

# What is loaded with the code that decides on a text, and decides nothing itself.
OTHERS = {
    *("atomic_file", "backends", "backends.device_reader", "backends.hailort_errors", "bundle", "canonical_json"),
    *("closing", "errors", "hailort_status", "hef", "manifest", "sensors", "verified_files", "versions", "watchdog"),
    "word_times",
}


def test_every_module_that_transcribes_is_in_the_digest_or_known_to_decide_nothing():
    """So that a new one is thought of."""
    code = (
        "import sys, whisper_runtime.transcriber, whisper_runtime.host_decoder, whisper_runtime.backends.onnxruntime,"
        "whisper_runtime.backends.hailort;"
        "print(*(name.partition('.')[2] for name in sys.modules if name.startswith('whisper_runtime.')))"
    )
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert loaded - set(code_digest._MODULES) <= OTHERS
    assert set(code_digest._MODULES) <= loaded


def test_the_digest_follows_the_beam_search(tmp_path, monkeypatch):
    for name in code_digest._MODULES:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    monkeypatch.setattr(code_digest, "_ROOT", tmp_path)
    before = code_digest.code_digest()
    (tmp_path / "beam_search.py").write_text("changed")
    assert code_digest.code_digest() != before
