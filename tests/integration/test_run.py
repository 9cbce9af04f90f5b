"""The app's own loop with a bundle: the right tokens, nothing that hangs, and its own models as before."""

import json
import subprocess

import numpy as np
import pytest
from whisper_runtime.backends import open_backend
from whisper_runtime.bundle import Bundle
from whisper_runtime.mel import window_mel

from integration import app_run, hef_contract
from integration.app import App
from integration.app_run import run_app
from integration.app_venv import AppPython, environment
from integration.changes import AppFiles
from integration.clip import silence
from integration.errors import AppError, ValidationError
from integration.install import install, uninstall
from integration.registration import Registration
from tests.integration.helpers import emulating_python, faking_python, ignore, make_app, tone, tree
from tests.integration.toy_bundle import SECONDS, SEQUENCE, WIDTH, models_of, write_hefs

RUNNABLE = ["examples", "old", "hailo-apps"]


@pytest.fixture(params=RUNNABLE)
def app(request, tmp_path):
    return App.find(make_app(tmp_path / "repository", request.param))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Configures the strict fake of HailoRT in the processes that a test starts."""
    path = tmp_path / "fake_hailo.json"

    def call(**settings):
        path.write_text(json.dumps(settings))

    call()
    monkeypatch.setenv("FAKE_HAILO", str(path))
    return call


def greedy_text(folder, clip, *, prompt=None, positions=True):
    """What the app should show: the runtime's own graphs, embedding and tokenizer, one token at a time."""
    bundle = Bundle.open(folder)
    tokenizer, embedding = bundle.tokenizer(), bundle.embedding()
    tokens = list(bundle.manifest.sot_sequence if prompt is None else prompt)
    start = len(tokens)
    with open_backend(bundle) as backend:
        features = backend.encode(window_mel(clip.samples, SECONDS).T[None].copy())
        while len(tokens) < SEQUENCE and (len(tokens) == start or tokens[-1] != tokenizer.eot):
            # The app fills the free slots with token 0; here they are zeros, and no row looks at another one's slot.
            embedded = embedding.embed(tokens, range(len(tokens)), SEQUENCE)
            if not positions:
                embedded[: len(tokens), 0] -= np.load(folder / "positional_embedding.npy")[: len(tokens)]
            tokens.append(int(np.argmax(backend.decode(features, embedded, [len(tokens) - 1])[0])))
    text = b"".join(tokenizer._texts[token] for token in tokens[start:] if token < tokenizer.eot)
    return "".join(text.decode("utf-8", "replace").split())


def shown(run):
    return "".join("".join(run.texts).split())


@pytest.mark.parametrize("variant", ["tiny.en", "tiny", "base.en"])
def test_the_app_starts_from_the_bundles_prompt_and_adds_positions(app, toy_bundle, variant):
    bundle, clip = toy_bundle(variant), tone()
    registration = install(app.root, bundle, emulated=True, report=ignore)
    run = run_app(app, emulating_python(), registration, clip, SECONDS)
    expected = greedy_text(bundle, clip)
    assert shown(run) == expected
    assert expected not in (greedy_text(bundle, clip, prompt=[50258]), greedy_text(bundle, clip, positions=False))


def test_a_run_leaves_nothing_behind_and_touches_no_recording(app, toy_bundle):
    (app.root / "sampled_audio.wav").write_bytes(b"my recording")
    registration = install(app.root, toy_bundle(), emulated=True, report=ignore)
    before = tree(app.root)
    run_app(app, emulating_python(), registration, tone(), SECONDS)
    assert tree(app.root) == before
    assert not list(app.root.rglob("__pycache__"))


def test_a_compiled_bundle_on_the_strict_fake(app, compiled_toy_bundle, fake):
    bundle, clip = compiled_toy_bundle("tiny"), tone()
    registration = install(app.root, bundle, emulated=False, report=ignore)
    assert registration.variant == "tiny-bundle"
    run = run_app(app, faking_python(), registration, clip, SECONDS)
    assert shown(run) == greedy_text(bundle, clip)


def test_hefs_that_the_app_would_misread_are_refused(app, compiled_toy_bundle, monkeypatch):
    before = tree(app.root)
    monkeypatch.setattr(hef_contract, "LOGITS", "matmul")
    with pytest.raises(AppError, match="'matmul' in their names"):
        install(app.root, compiled_toy_bundle("tiny"), emulated=False, report=ignore)
    monkeypatch.setattr(hef_contract, "FEATURES", "input_layer2")
    with pytest.raises(AppError, match="the app needs the input input_layer2 of shape"):
        install(app.root, compiled_toy_bundle("base"), emulated=False, report=ignore)
    assert tree(app.root) == before
    assert AppFiles(app.root).record() is None


@pytest.mark.parametrize("layout", ["examples", "hailo-apps"])
def test_the_apps_own_models_give_what_they_gave(tmp_path, toy_bundle, fake, fake_vendor_path, layout):
    import hef_file

    app = App.find(make_app(tmp_path / "repository", layout))
    names = {"encoder": "tiny-encoder.hef", "decoder": "tiny-decoder.hef"}
    write_hefs(hef_file, app.root / "app/hefs/h8/tiny", models_of(51865, 7), 51865, "hailo8", names)
    values = np.random.default_rng(8)
    assets = app.root / "app/decoder_assets/tiny/decoder_tokenization"
    assets.mkdir(parents=True)
    np.save(assets / "token_embedding_weight_tiny.npy", values.normal(0, 0.5, (51865, WIDTH)).astype(np.float32))
    np.save(assets / "onnx_add_input_tiny.npy", values.normal(0, 0.5, (SEQUENCE, WIDTH)).astype(np.float32))
    stock = Registration("tiny", "hailo8", "stock", "0", False)

    before = run_app(app, faking_python(), stock, tone(2.0), SECONDS).texts
    install(app.root, toy_bundle("tiny"), emulated=True, report=ignore)
    after = run_app(app, faking_python(), stock, tone(2.0), SECONDS).texts
    assert before == after
    assert [len(text.split()) for text in before] == [SEQUENCE - 1] * 2


def test_silence_ends(app, toy_bundle):
    registration = install(app.root, toy_bundle(), emulated=True, report=ignore)
    run = run_app(app, emulating_python(), registration, silence(2.0), SECONDS)
    assert run.no_speech
    assert run.texts == []


def test_a_failing_device_ends_the_app_instead_of_hanging_it(app, compiled_toy_bundle, fake):
    registration = install(app.root, compiled_toy_bundle(), emulated=False, report=ignore)
    fake(faults={"AsyncInferJob.wait": {"status": "INTERNAL_FAILURE", "at": 3}})
    with pytest.raises(ValidationError, match=r"the app failed \(status 1\): RuntimeError: The inference thread"):
        run_app(app, faking_python(), registration, tone(), SECONDS)


def test_a_run_that_hangs_is_ended(examples_app, toy_bundle, tmp_path, monkeypatch):
    app = App.find(examples_app)
    registration = install(app.root, toy_bundle(), emulated=True, report=ignore)
    platform = tmp_path / "slow" / "hailo_platform.py"
    platform.parent.mkdir()
    platform.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(app_run, "START_SECONDS", 1.0)
    monkeypatch.setattr(app_run, "WINDOW_SECONDS", 0.5)
    python = emulating_python()
    slow = AppPython(python.executable, (platform.parent, *python.import_path))
    with pytest.raises(ValidationError, match="did not end within 2 s"):
        run_app(app, slow, registration, tone(), SECONDS)


def test_the_gui_opens_the_bundles_window_and_bears_silence(app, toy_bundle, tmp_path):
    """The GUI's own code under a stand-in for streamlit, which shows what it is asked to show."""
    registration = install(app.root, toy_bundle(), emulated=True, report=ignore)
    stub = tmp_path / "gui_stub" / "streamlit.py"
    stub.parent.mkdir()
    stub.write_text(
        "class State(dict):\n"
        "    __getattr__ = dict.__getitem__\n"
        "    __setattr__ = dict.__setitem__\n\n"
        "session_state = State()\n\n\n"
        "def show(results):\n"
        "    print('SHOWN', session_state.chunk_length, len(results))\n"
        "    session_state.whisper_hailo.stop()\n"
    )
    python = emulating_python()
    variables = environment(AppPython(python.executable, (stub.parent, app.root, *python.import_path)), app)
    for clip, windows in ((tone(2.0), 2), (silence(2.0), 0)):
        clip.write(tmp_path / "sampled_audio.wav")
        # The first repository's paths are relative to the app.
        for name in ("app", "common", "gui"):
            if not (tmp_path / name).exists():
                (tmp_path / name).symlink_to(app.root / name)
        command = [str(python.executable), str(app.root / "gui/gui.py"), "--hw-arch", "hailo8", "--variant"]
        done = subprocess.run(
            [*command, registration.variant], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60
        )
        assert f"SHOWN {SECONDS} {windows}" in done.stdout, done.stderr


def test_the_downloader_takes_the_variant_and_fetches_nothing(app, toy_bundle):
    install(app.root, toy_bundle("base.en"), emulated=True, report=ignore)
    python = emulating_python()
    command = [str(python.executable), "app/download_resources.py", "--hw-arch", "hailo8", "--variant", "base.en"]
    done = subprocess.run(command, cwd=app.root, env=environment(python, app), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    uninstall(app.root, report=ignore)
    done = subprocess.run(command, cwd=app.root, env=environment(python, app), capture_output=True, text=True)
    assert done.returncode == 2
