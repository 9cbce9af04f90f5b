"""The driver of the Dataflow Compiler: checks, steps, resumption, interruption, logs, and the worker's own rules."""

import ast
import dataclasses
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from whisper_runtime.errors import BackendError
from whisper_runtime.hef import Hef, HefStream, read_hef
from whisper_toolchain.calibration import CALIBRATION, HOLDOUT
from whisper_toolchain.compilers import CompileJob, dfc, dfc_checks, dfc_inference, dfc_process, dfc_worker
from whisper_toolchain.compilers.choose import choose_compiler
from whisper_toolchain.compilers.dfc import DataflowCompiler, hef_problem, net_name
from whisper_toolchain.compilers.dfc_checks import (
    Requirements,
    VendorTools,
    calibration_problems,
    check_before,
    compiler_problems,
    machine_problems,
    probe,
    work_problems,
)
from whisper_toolchain.compilers.dfc_inference import ServedNetwork
from whisper_toolchain.compilers.dfc_log import LineSplitter, is_telling, parse_snr, telling_lines, what_to_try
from whisper_toolchain.compilers.dfc_process import WorkerFailure, run_worker
from whisper_toolchain.errors import CompileError, RecipeError
from whisper_toolchain.evaluation.dfc_backend import DfcBackend, DfcNetworks, order_of
from whisper_toolchain.float_model import open_float_backend
from whisper_toolchain.recipe import load_recipe
from whisper_toolchain.shape_plan import Dimensions, ShapePlan
from whisper_toolchain.signal_to_noise import SignalToNoise, signal_to_noise

DIMS = Dimensions(80, 50, 32, 2, 2, 103, 16, 32, 2, 2)
PLAN = ShapePlan("toy.en", "hailo8", 1, 12, DIMS)
ROWS, HELD = 6, 3
ANY_MACHINE = Requirements(0, 0, 0)


# The vendor's log


def lines_of(*chunks):
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return [(line.text, line.overwritten) for line in (*lines, *splitter.finish())]


def test_lines_are_the_same_however_the_stream_is_cut():
    stream = b"one\r\ntwo\n[=>  ] 00:01\r[==> ] 00:02\r\x1b[32m[info]\x1b[0m Mapping Failed\n\xff end"
    expected = [
        ("one", False),
        ("two", False),
        ("[=>  ] 00:01", True),
        ("[==> ] 00:02", True),
        ("[info] Mapping Failed", False),
        ("\ufffd end", False),
    ]
    assert lines_of(stream) == expected
    for cut in range(1, len(stream)):
        assert lines_of(stream[:cut], stream[cut:]) == expected
    assert lines_of(*(stream[i : i + 1] for i in range(len(stream)))) == expected


@pytest.mark.parametrize(
    "line",
    [
        "[warning] Reducing optimization level to 0 (the accuracy won't be optimized) because there's no available GPU",
        "[warning] DALI is not installed, falling back to CPU",
        "[info] Assigning 4bit weights to layer net/conv3 with 147.46k parameters",
        "[info] Single context flow failed: Recoverable single context error",
        "Found valid partition to 4 contexts, Performance improved by 12.1%",
        "[error] Mapping Failed (allocation time: 3s)",
    ],
)
def test_telling_lines(line):
    assert is_telling(line)
    assert telling_lines(["[info] Starting Model Optimization", line, "", line]) == [line]


def test_snr_lines():
    lines = ["[info] output_layer1 SNR: 9.179 dB", "[info] net/conv1 SNR:\t21.1 dB", "SNR: none"]
    assert parse_snr([*lines, "output_layer1 SNR: -0.5 dB"]) == {"output_layer1": -0.5, "net/conv1": 21.1}


@pytest.mark.parametrize("number", ["-inf", "inf", "nan", "1e1", "1.5e-02", "-2.5E+1", "+3", ".5", "12."])
def test_snr_in_every_form_of_a_number(number):
    assert parse_snr([f"net/conv1 SNR:\t{number} dB"]) == pytest.approx({"net/conv1": float(number)}, nan_ok=True)


@pytest.mark.parametrize(
    ("action", "said", "advice"),
    [
        ("compile", "BackendAllocatorException: Compilation failed: Agent infeasible", "smaller SECONDS"),
        ("compile", "[error] Mapping Failed", "smaller SECONDS"),
        ("compile", "No valid partition found", "another ARCH"),
        ("optimise", "ResourceExhaustedError: OOM when allocating tensor", "memory ran out"),
        ("optimise", "MemoryError: ", "memory ran out"),
        ("optimise", "numpy: Unable to allocate 1.2 GiB", "memory ran out"),
        ("optimise", "OSError: [Errno 28] No space left on device", "disk is full"),
        ("optimise", "BadInputsShape: dataset_size 1024 is larger than the calibration set", "larger SAMPLES"),
        ("optimise", "BadInputsShape: the calibration set has the wrong shape", "read the end of the log"),
        ("translate", "ModuleNotFoundError: No module named 'tensorflow'", "install it again"),
        ("translate", "UnsupportedOperationError: Erf", "another one that knows the ARCH"),
        ("measure", "ValueError: what", "goes on after the last finished step"),
    ],
)
def test_advice(action, said, advice):
    assert advice in what_to_try(action, [said])


# Checks before hours of work


def tools(version="3.33.0", problem=None, python=(3, 10, 12), machine="x86_64"):
    return VendorTools("/venv/bin/python", version, problem, python, machine)


@pytest.mark.parametrize(
    ("version", "arch", "needs"),
    [
        ("3.30.0", "hailo8", "3.x, from 3.31 on"),
        ("5.1.0", "hailo8l", "3.x, from 3.31 on"),
        ("3.33.0", "hailo10h", "5.x"),
    ],
)
def test_compiler_of_the_wrong_version(version, arch, needs):
    (problem,) = compiler_problems(tools(version), arch)
    assert problem == (
        f"Dataflow Compiler {version} does not compile for {arch}, which needs {needs}: "
        "set DFC_PYTHON to an interpreter that has it"
    )


@pytest.mark.parametrize(("version", "arch"), [("3.31.0", "hailo8"), ("3.33.1", "hailo8l"), ("5.1.0", "hailo10h")])
def test_compiler_of_the_right_version(version, arch):
    assert list(compiler_problems(tools(version), arch)) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"version": None}, "it does not say its version"),
        ({"version": None, "problem": "ImportError: libcuda"}, "ImportError: libcuda"),
        ({"version": "nightly"}, "'nightly' is not a version"),
        ({"python": (3, 8, 10)}, "is Python 3.8.10: the Dataflow Compiler runs in 3.10 to 3.12"),
        ({"python": (3, 13, 0)}, "is Python 3.13.0"),
        ({"machine": "aarch64"}, "this is a aarch64 machine"),
    ],
)
def test_compiler_that_cannot_work(found, says):
    (problem,) = compiler_problems(tools(**found), "hailo8")
    assert says in problem


def test_machine_that_is_too_small(tmp_path):
    work = tmp_path / "not" / "yet" / "there"
    assert list(machine_problems(work, ANY_MACHINE)) == []
    memory, disk = machine_problems(work, Requirements(memory=10**15, disk=10**18))
    assert "of RAM: the Dataflow Compiler needs 1000000.0 GB" in memory
    assert f"free on the disk of {work}: 1000000000.0 GB are needed" in disk


def test_work_folder_that_cannot_be_written(tmp_path):
    work = tmp_path / "not" / "yet" / "there"
    assert list(work_problems(work)) == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "not").write_text("a file in the folder's place")
    (problem,) = work_problems(work)
    assert problem == (
        f"the work folder {work} cannot be written (Not a directory): "
        f"make {tmp_path / 'not'} a folder that this user may write to"
    )
    (problem,) = work_problems(Path("/proc/whisper"))  # not even root may write there
    assert "make /proc a folder that this user may write to" in problem


def write_calibration(folder, rows=ROWS, held=HELD, plan=PLAN, seed=0):
    random = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for files, count in ((CALIBRATION, rows), (HOLDOUT, held)):
        mel = random.uniform(-1, 1.5, (count, 1, plan.mel_frames, 80))
        features = random.standard_normal((count, 1, plan.feature_frames, plan.state))
        embeddings = random.standard_normal((count, plan.sequence, 1, plan.state))
        for name, values in ((files.mel, mel), (files.features, features), (files.token_embeddings, embeddings)):
            np.save(folder / name, values.astype(np.float32))
        np.save(folder / files.lengths, random.integers(1, plan.sequence, count).astype(np.int32))
    return folder


def damage(path, change):
    array = np.load(path)
    np.save(path, change(array))


def with_nan(array):
    array[2].flat[5] = np.nan
    return array


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (CALIBRATION.mel, lambda a: a[:, :, :-1], "where float32 (rows, 1, 100, 80) belongs"),
        (CALIBRATION.features, lambda a: a.astype(np.float64), "is float64 (6, 1, 50, 32) where float32"),
        (CALIBRATION.token_embeddings, with_nan, "has values in row 2 that are not finite"),
        (HOLDOUT.mel, lambda a: a[:-1], "do not belong together, their rows are holdout_mel.npy 2, "),
        (HOLDOUT.lengths, lambda a: a * 100, "has lengths outside 1..12"),
    ],
)
def test_calibration_set_that_is_wrong(tmp_path, name, change, says):
    folder = write_calibration(tmp_path / "calibration")
    assert list(calibration_problems(folder, PLAN)) == []
    damage(folder / name, change)
    (problem,) = calibration_problems(folder, PLAN)
    assert says in problem
    assert problem.endswith("run `make calibrate` again")


def test_calibration_set_that_is_not_whole(tmp_path):
    folder = write_calibration(tmp_path / "calibration")
    (folder / CALIBRATION.mel).unlink()
    os.truncate(folder / HOLDOUT.features, 1000)
    (folder / HOLDOUT.mel).write_bytes(b"")
    problems = list(calibration_problems(folder, PLAN))
    assert len(problems) == 3
    for problem, name in zip(problems, (CALIBRATION.mel, HOLDOUT.mel, HOLDOUT.features), strict=True):
        assert problem.startswith(f"{folder / name} cannot be read")
        assert "\n" not in problem


def test_all_problems_are_told_together(tmp_path):
    job = SimpleNamespace(plan=PLAN, work=tmp_path / "work", calibration=tmp_path / "calibration")
    write_calibration(job.calibration)
    (job.calibration / CALIBRATION.mel).unlink()
    with pytest.raises(CompileError) as error:
        check_before(job, tools("3.30.0", python=(3, 9, 0)), Requirements(memory=10**15))
    message = str(error.value)
    assert "\n" not in message
    for part in ("3.30.0 does not compile for hailo8", "Python 3.9.0", "of RAM", "encoder_mel.npy cannot be read"):
        assert part in message
    assert not job.work.exists()
    job.work.write_text("")
    with pytest.raises(CompileError, match=f"the work folder {job.work} cannot be written"):
        check_before(job, tools("3.30.0"), ANY_MACHINE)


def test_little_memory_is_a_warning(tmp_path):
    job = SimpleNamespace(plan=PLAN, work=tmp_path, calibration=write_calibration(tmp_path / "calibration"))
    (warning,) = check_before(job, tools(), Requirements(0, 10**15, 0))
    assert warning.endswith("1000000.0 GB are advised")
    assert check_before(job, tools(), ANY_MACHINE) == []


# Finding the compiler


def test_the_compiler_is_found_and_chosen(dfc_python):
    found = probe(dfc_python)
    assert found.version == "3.33.0"
    assert found.python == sys.version_info[:3]
    assert found.machine == platform.machine()
    for choice in ("dfc", "auto"):
        compiler, why = choose_compiler(choice, dfc_python)
        assert (compiler.name, compiler.emulated, compiler.version) == ("dfc", False, "hailo_sdk_client 3.33.0")
        assert why == f"compiler: Hailo's Dataflow Compiler, hailo_sdk_client 3.33.0 of DFC_PYTHON={dfc_python}"
    assert choose_compiler("emulator", dfc_python)[0].emulated


def test_the_compiler_is_not_there():
    assert probe(None) is None
    compiler, why = choose_compiler("auto", None)
    assert compiler.emulated
    assert "EMULATOR, because the current Python has no Hailo Dataflow Compiler" in why
    with pytest.raises(CompileError, match="the current Python has no hailo_sdk_client: install"):
        choose_compiler("dfc", None)


SET_DFC_PYTHON = "set DFC_PYTHON=/path/to/venv/bin/python"


def program(path, text, mode=0o755):
    path.write_text(text)
    path.chmod(mode)


@pytest.mark.parametrize(
    ("interpreter", "says"),
    [
        ("/nowhere/python", "cannot be found (No such file or directory)"),
        ("no-such-python", "is not in PATH"),
        ("./folder", "is a folder"),
        ("folder", "is a folder"),
        ("./plain", "is not executable"),
        ("/bin/true", "is not a Python interpreter"),
        ("/bin/false", "is not a Python interpreter"),
        ("./garbage", "is not a Python interpreter"),
        ("./other", "is not a Python interpreter"),
        ("./binary", "does not run (Exec format error)"),
    ],
)
def test_no_interpreter(tmp_path, monkeypatch, interpreter, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    program(tmp_path / "plain", "#!/bin/sh\n", 0o644)
    program(tmp_path / "garbage", f"#!/bin/sh\necho '{dfc_checks._MARK}it is me'\n")
    program(tmp_path / "other", f"#!/bin/sh\necho '{dfc_checks._MARK}[]'\n")
    program(tmp_path / "binary", "neither a script nor a program")
    with pytest.raises(CompileError) as error:
        choose_compiler("auto", interpreter)
    assert str(error.value) == f"DFC_PYTHON={interpreter} {says}: {SET_DFC_PYTHON}"


def test_an_interpreter_that_does_not_answer(tmp_path, monkeypatch):
    program(tmp_path / "python", "#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(dfc_checks, "_PROBE_SECONDS", 1)
    with pytest.raises(CompileError) as error:
        probe(str(tmp_path / "python"))
    assert str(error.value) == f"DFC_PYTHON={tmp_path / 'python'} did not answer within 1 s: {SET_DFC_PYTHON}"


def test_an_interpreter_in_this_folder_or_at_home(tmp_path, monkeypatch, dfc_python):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    program(tmp_path / "python", f'#!/bin/sh\nexec {dfc_python} "$@"\n')
    for name in ("./python", "~/python"):
        assert probe(name).version == "3.33.0"
        assert probe(name).interpreter == str(tmp_path / "python")


def test_a_compiler_that_cannot_be_imported(tmp_path):
    (tmp_path / "hailo_sdk_client.py").write_text("raise ImportError('libcudart.so.12: not found')\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    found = probe(str(python))
    assert found.version is None
    assert found.problem == "ImportError: libcudart.so.12: not found"
    (problem,) = compiler_problems(found, "hailo8")
    assert "not usable (ImportError: libcudart.so.12: not found): install it again" in problem


# The worker


def test_worker_imports_only_what_the_vendors_interpreter_has():
    tree = ast.parse(Path(dfc_worker.__file__).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module.split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy", "hailo_sdk_client"}
    assert not {"importlib", "__future__"} & names


def test_worker_measures_as_the_emulator_does():
    random = np.random.default_rng(4)
    native = [random.standard_normal((3, 1, 5, 7)).astype(np.float32) for _ in range(2)]
    quantised = [array + 0.1 * random.standard_normal(array.shape).astype(np.float32) for array in native]
    for lengths in (None, [5, 1, 3]):
        expected = SignalToNoise()
        for reference, other in zip(native, quantised, strict=True):
            for row in range(3):
                used = slice(None if lengths is None else lengths[row])
                expected.add(reference[row, 0, used], other[row, 0, used])
        assert dfc_worker.signal_to_noise(native, quantised, 3, lengths) == pytest.approx(expected.decibels, rel=1e-12)
    assert dfc_worker.signal_to_noise(native, native, 3, None) == float("inf")
    assert np.isnan(dfc_worker.signal_to_noise([native[0] * 0], [native[0]], 3, None))
    with pytest.raises(ValueError, match="shapes"):
        dfc_worker.signal_to_noise(native, native[:1], 3, None)


def runner_with_inputs(**shapes):
    layers = {
        f"net/{name}": {"type": "input_layer", "input_shapes": [[-1, *shape]], "output_shapes": [[-1, *shape]]}
        for name, shape in shapes.items()
    }
    layers["net/conv1"] = {"type": "conv", "input_shapes": [[-1, 1, 50, 32]], "output_shapes": [[-1, 1, 50, 8]]}
    return SimpleNamespace(get_hn=lambda: {"layers": layers})


def test_inputs_are_told_by_their_shape(tmp_path):
    folder = write_calibration(tmp_path / "calibration")
    paths = [str(folder / CALIBRATION.features), str(folder / CALIBRATION.token_embeddings)]
    runner = runner_with_inputs(input_layer1=(12, 1, 32), input_layer2=(1, 50, 32))
    data = dfc_worker.match_arrays(runner, paths, 4)
    assert {name: array.shape for name, array in data.items()} == {
        "net/input_layer1": (4, 12, 1, 32),
        "net/input_layer2": (4, 1, 50, 32),
    }
    assert np.array_equal(data["net/input_layer2"], np.load(paths[0])[:4])
    assert all(isinstance(array, np.memmap) for array in data.values())
    with pytest.raises(ValueError, match=r"input net/a of shape \(3, 3, 3\) fits 0 of the arrays"):
        dfc_worker.match_arrays(runner_with_inputs(a=(3, 3, 3)), paths, 4)
    with pytest.raises(ValueError, match="no input for"):
        dfc_worker.match_arrays(runner_with_inputs(input_layer1=(12, 1, 32)), paths, 4)
    with pytest.raises(ValueError, match="fits 2 of the arrays"):
        dfc_worker.match_arrays(runner, [*paths, str(folder / HOLDOUT.features)], 4)


STUB = """
import contextlib, json, pathlib
import numpy as np
class InferenceContext:
    SDK_NATIVE, SDK_QUANTIZED = "native", "quantised"
class ClientRunner:
    def __init__(self, hw_arch=None, har=None):
        assert np.__version__.startswith("1.26."), np.__version__
        self.state = json.loads(pathlib.Path(har).read_text()) if har else [hw_arch]
    def translate_onnx_model(self, model, name, start_node_names, end_node_names, net_input_shapes):
        self.state.append([name, start_node_names, end_node_names, net_input_shapes])
    def get_hn(self):
        shapes = [np.array([-1, 1, 100, 80])]
        layer = {"type": "input_layer", "input_shapes": shapes, "output_shapes": shapes}
        return {"layers": {"net/input_layer1": layer}}
    def load_model_script(self, text): self.state.append(text)
    def optimize(self, data, work_dir): self.state.append([str(a.shape) for a in data.values()])
    def save_har(self, path): pathlib.Path(path).write_text(json.dumps(self.state))
    def compile(self): return b"hef"
    def infer_context(self, context): return contextlib.nullcontext(context)
    def infer(self, context, data): return [data["net/input_layer1"] * (1.0 if context == "native" else 1.1)]
"""


def python310():
    """A Python 3.10 that runs; a version manager's shim may be there and not run."""
    candidates = [shutil.which("python3.10")]
    candidates += [str(path) for path in Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10")]
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True)
        if done.returncode == 0:
            return candidate
    pytest.skip("no Python 3.10 that runs")


@pytest.fixture(scope="session")
def vendor_like_python(tmp_path_factory):
    """Python 3.10 with numpy 1.26 and a stub of the vendor's package, and nothing else."""
    folder = tmp_path_factory.mktemp("vendor-like") / "venv"
    subprocess.run([python310(), "-m", "venv", str(folder)], check=True, capture_output=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "numpy==1.26.4"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"numpy 1.26.4 cannot be installed: {done.stderr.splitlines()[-1]}")
    (package,) = folder.glob("lib/python3.10/site-packages")
    (package / "hailo_sdk_client.py").write_text(STUB)
    return str(python)


def drive(python, folder, job, **listeners):
    folder.mkdir(exist_ok=True)
    told = {"on_line": lambda line: None, "on_step": lambda text: None, "on_wait": lambda: None, **listeners}
    return run_worker(python, job, folder, folder / "step.log", **told)


def test_worker_under_python_310_with_numpy_126(vendor_like_python, tmp_path):
    arrays = [str(write_calibration(tmp_path / "calibration") / CALIBRATION.mel)]
    har, quantised, hef = (str(tmp_path / name) for name in ("a.har", "b.har", "c.hef"))
    script = "performance_param(optimize_for_batch=1)\n"
    translate = {
        "action": "translate",
        "arch": "hailo8",
        "graph": "x.onnx",
        "net_name": "net",
        "start_nodes": ["mel"],
        "end_nodes": ["encoder.ln_post/Add_2"],
        "input_shapes": {"mel": [1, 80, 1, 100]},
        "har": har,
    }
    (layer,) = drive(vendor_like_python, tmp_path / "run", translate).result["layers"]
    assert layer["input_shapes"] == [[-1, 1, 100, 80]]
    assert layer["original_names"] == []
    optimise = {"translated": har, "script": script, "arrays": arrays, "rows": 5, "work_dir": "w", "har": quantised}
    drive(vendor_like_python, tmp_path / "run", {"action": "optimise", **optimise})
    state = json.loads(Path(quantised).read_text())
    assert state[0] == "hailo8"
    assert state[1] == ["net", ["mel"], ["encoder.ln_post/Add_2"], {"mel": [1, 80, 1, 100]}]
    assert state[2:] == [script, ["(5, 1, 100, 80)"]]
    measure = {"action": "measure", "optimised": quantised, "arrays": arrays, "lengths": None}
    finished = drive(vendor_like_python, tmp_path / "run", measure)
    assert finished.result["snr_db"] == pytest.approx(20.0, abs=1e-3)
    assert 1e6 < finished.peak_memory_bytes < 1e9
    native = str(tmp_path / "native.npz")
    drive(
        vendor_like_python, tmp_path / "run", {"action": "look", "translated": har, "arrays": arrays, "native": native}
    )
    assert np.array_equal(np.load(native)["arr_0"], np.load(arrays[0])[:1])
    layers = {"rows": 5, "lengths": None, "wanted": [{"output": 0, "slots": None}], "work_dir": str(tmp_path)}
    finished = drive(
        vendor_like_python,
        tmp_path / "run",
        {"action": "measure_layers", "optimised": quantised, "arrays": arrays, **layers},
    )
    ((signal_sum, noise_sum),) = finished.result["sums"]
    assert noise_sum / signal_sum == pytest.approx(0.01, abs=1e-6)
    drive(vendor_like_python, tmp_path / "run", {"action": "compile", "optimised": har, "hef": hef, "har": har + "2"})
    assert Path(hef).read_bytes() == b"hef"


# The worker's process, with a vendor of a few lines


@pytest.fixture
def vendor(tmp_path):
    """Makes an interpreter whose hailo_sdk_client has the given body in `ClientRunner.__init__`."""

    def make(body):
        source = "import os, sys, time, subprocess, signal\nclass ClientRunner:\n    def __init__(self, **arguments):\n"
        (tmp_path / "hailo_sdk_client.py").write_text(source + textwrap.indent(textwrap.dedent(body), " " * 8))
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        return str(python)

    return make


COMPILE = {"action": "compile", "optimised": "x.har", "hef": "x.hef", "har": "y.har"}


def test_failure_is_told_with_its_text_and_the_log_has_the_rest(vendor, tmp_path):
    python = vendor("print('Mapping Failed'); print('to stderr', file=sys.stderr); raise RuntimeError('a\\n  b')")
    lines = []
    with pytest.raises(WorkerFailure) as error:
        drive(python, tmp_path / "run", COMPILE, on_line=lambda line: lines.append(line.text))
    assert str(error.value) == "RuntimeError: a b"
    log = (tmp_path / "run" / "step.log").read_text()
    assert log.startswith("Mapping Failed\nto stderr\nTraceback")
    assert lines == log.splitlines()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9; if it was not you, the system ran out of memory"),
        ("os.abort()", "killed by signal 6"),
        ("os._exit(3)", "ended with status 3 and did not say why"),
        ("sys.exit(0)", "ended with status 0 and did not say why"),
    ],
)
def test_sudden_end(vendor, tmp_path, body, says):
    with pytest.raises(WorkerFailure, match=says):
        drive(vendor(body), tmp_path / "run", COMPILE)


def test_interpreter_that_went_away(tmp_path):
    with pytest.raises(WorkerFailure, match="/nowhere/python does not run: No such file"):
        drive("/nowhere/python", tmp_path / "run", COMPILE)


def test_progress_bars_are_passed_on_but_not_logged(vendor, tmp_path):
    python = vendor("sys.stdout.write('1 %\\r2 %\\rdone\\n'); sys.stdout.flush(); raise ValueError")
    lines = []
    with pytest.raises(WorkerFailure):
        drive(python, tmp_path / "run", COMPILE, on_line=lines.append)
    assert [line.text for line in lines[:3]] == ["1 %", "2 %", "done"]
    assert (tmp_path / "run" / "step.log").read_text().startswith("done\nTraceback")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


# A vendor that starts a process of its own, ignores polite signals, and computes for an hour.
STUBBORN = """
child = subprocess.Popen(["sleep", "3600"])
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
with open("pids.partial", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.rename("pids.partial", "pids")
time.sleep(3600)
"""


def pids(folder):
    wait_for(lambda: (folder / "pids").exists())
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def test_ctrl_c_ends_the_worker_and_what_it_started(vendor, tmp_path, monkeypatch):
    monkeypatch.setattr(dfc_process, "_TERMINATE_SECONDS", 0.2)
    folder = tmp_path / "run"

    def interrupt():
        if (folder / "pids").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(vendor(STUBBORN), folder, COMPILE, on_wait=interrupt)
    wait_for(lambda: not any(alive(pid) for pid in pids(folder)))


DRIVER = """
import sys
from pathlib import Path
from whisper_toolchain.compilers.dfc_process import run_worker
run_worker(sys.argv[1], {compile!r}, Path(sys.argv[2]), Path(sys.argv[2]) / "step.log",
           on_line=lambda line: None, on_step=lambda text: None, on_wait=lambda: None)
"""


def test_killed_driver_leaves_no_orphan(vendor, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    script = DRIVER.format(compile=COMPILE)
    process = subprocess.Popen([sys.executable, "-c", script, vendor(STUBBORN), str(folder)])
    try:
        started = pids(folder)
        assert all(alive(pid) for pid in started)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(alive(pid) for pid in started))


def test_what_the_vendor_left_running_ends_with_the_worker(vendor, tmp_path):
    folder = tmp_path / "run"
    python = vendor(STUBBORN.replace("time.sleep(3600)", "raise ValueError('enough')"))
    before = time.monotonic()
    with pytest.raises(WorkerFailure, match="enough"):
        drive(python, folder, COMPILE)
    assert time.monotonic() - before < 20
    wait_for(lambda: not any(alive(pid) for pid in pids(folder)))


def test_the_vendor_cannot_wait_for_an_answer_on_standard_input(vendor, tmp_path):
    with pytest.raises(WorkerFailure, match="EOFError"):
        drive(vendor("input('Would you like to go on? ')"), tmp_path / "run", COMPILE)


def test_the_toolchains_own_modules_are_not_in_the_vendors_way(vendor, tmp_path):
    with pytest.raises(WorkerFailure, match="No module named 'choose'"):
        drive(vendor("import choose"), tmp_path / "run", COMPILE)


# The whole driver, with the strict fake


def toy_recipe():
    """The recipe of tiny.en, with the layers that the toy has."""
    recipe = load_recipe("tiny.en", "hailo8")
    wide = ("decoder.blocks.*.residual", "decoder.blocks.1.mlp.2")
    return dataclasses.replace(recipe, decoder=dataclasses.replace(recipe.decoder, sixteen_bit=wide))


def toy_job(root, report, plan=PLAN):
    """A job on the export and the calibration set in `root`; `output` is empty as the stage makes it."""
    output = root / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    return CompileJob(plan, toy_recipe(), root / "export", root / "calibration", output, root / "work", report)


@pytest.fixture(scope="module")
def toy(patched_whisper, tmp_path_factory):
    """A folder with the exported graphs of a toy Whisper with random weights, and random calibration arrays."""
    from whisper_toolchain.checkpoints import Checkpoint
    from whisper_toolchain.checkpoints.validation import expected_shapes
    from whisper_toolchain.export import export_graphs
    from whisper_toolchain.model import build_model

    random = np.random.default_rng(11)
    state = {}
    for name, shape in expected_shapes(DIMS).items():
        scale = 1 / np.sqrt(np.prod(shape[1:])) if name.endswith("weight") and len(shape) > 1 else 0.3
        state[name] = (scale * random.standard_normal(shape)).astype(np.float32)
    folder = tmp_path_factory.mktemp("toy")
    (folder / "export").mkdir()
    export_graphs(build_model(patched_whisper, Checkpoint("toy", DIMS, state, {}), 50), PLAN, folder / "export")
    write_calibration(folder / "calibration")
    return folder


@pytest.fixture
def root(toy, tmp_path):
    """A place for one test's job; the toy's files are copied, so that they may be damaged."""
    for name in ("export", "calibration"):
        shutil.copytree(toy / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Configures the fake compiler."""
    path = tmp_path / "fake.json"

    def configure(**settings):
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(settings))
        beside.replace(path)

    configure()
    monkeypatch.setenv("FAKE_HAILO", str(path))
    return configure


def compile_toy(python, root, plan=PLAN):
    """Compile; return what was made and the lines reported."""
    lines = []
    return DataflowCompiler(python, ANY_MACHINE).compile(toy_job(root, lines.append, plan)), lines


STEPS = [f"{graph}: {action}" for graph in ("encoder", "decoder") for action in ("translate",)] + [
    f"{graph}: {action}" for graph in ("encoder", "decoder") for action in ("optimise", "measure", "compile")
]


def ran(lines):
    return [step for line in lines for step in STEPS if line.startswith(f"dfc: {step} (log: ")]


def reused(lines):
    return [step for line in lines for step in STEPS if line.startswith(f"dfc: {step}: done before")]


@pytest.fixture(scope="module")
def compiled(toy, dfc_python, tmp_path_factory):
    """One undisturbed compilation."""
    root = tmp_path_factory.mktemp("compiled")
    for name in ("export", "calibration"):
        (root / name).symlink_to(toy / name)
    result, lines = compile_toy(dfc_python, root)
    return SimpleNamespace(root=root, result=result, lines=lines)


def test_compilation_makes_what_a_bundle_needs(compiled):
    result, output = compiled.result, compiled.root / "output"
    assert (result.encoder, result.decoder) == ("encoder.hef", "decoder.hef")
    assert result.extra_files == ("encoder.alls", "decoder.alls", "dfc.log")
    assert sorted(path.name for path in output.iterdir()) == sorted(["encoder.hef", "decoder.hef", *result.extra_files])
    encoder, decoder = (read_hef(output / name) for name in (result.encoder, result.decoder))
    assert encoder.network_groups == ("whisper_toy_en_encoder",)
    assert (encoder.architecture, encoder.sdk_version) == ("hailo8", "3.33.0")
    assert [stream.shape for stream in encoder.outputs] == [(1, 50, 32)]
    assert sorted(stream.shape for stream in decoder.inputs) == [(1, 50, 32), (12, 1, 32)]
    assert sorted(stream.shape for stream in decoder.outputs) == [(1, 12, 25)] * 3 + [(1, 12, 28)]
    assert {stream.bytes_per_value for stream in decoder.outputs} == {2}


def test_both_networks_are_parsed_before_the_first_long_step(compiled):
    assert ran(compiled.lines) == STEPS


def test_compilation_measures_noise(compiled):
    assert set(compiled.result.snr_db) == {"features", "logits"}
    assert all(5 < value < 80 for value in compiled.result.snr_db.values())


def test_compilation_records_time_memory_and_the_vendors_words(compiled):
    for graph, outputs in (("encoder", 1), ("decoder", 4)):
        steps = compiled.result.measurements[graph]
        assert list(steps) == ["translate", "optimise", "measure", "compile"]
        for step in steps.values():
            assert 0 < step["seconds"] < 120
            assert 1e7 < step["peak_memory_bytes"] < 4e9
        snr = steps["optimise"]["vendor_snr_db"]
        assert [name for name in snr if "output_layer" in name] == [
            f"whisper_toy_en_{graph}/output_layer{number}" for number in range(1, outputs + 1)
        ]
        assert any("Found valid partition to 9 contexts" in line for line in steps["compile"]["lines"])
        assert f"dfc: {graph}: compile: Found valid partition to 9 contexts, Performance improved by 0.9%" in (
            compiled.lines
        )
    json.dumps(compiled.result.measurements, allow_nan=False)
    told = [line for line in compiled.lines if "falling back to CPU" in line]
    assert len(told) == 2  # once for each graph and not at each step


def test_log_has_every_step_in_order(compiled):
    log = (compiled.root / "output" / "dfc.log").read_text()
    heads = [line for line in log.splitlines() if line.startswith("==> ")]
    actions = ("translate", "optimise", "measure", "compile")
    assert heads == [f"==> {graph}: {action}" for graph in ("encoder", "decoder") for action in actions]
    for line in ("[info] Translation completed on ONNX model", "[info] Model Optimization is done", "Building HEF"):
        assert log.count(line) == 2
    assert "\r" not in log
    assert "Duration: 00:01:03" in log


def test_nothing_is_left_but_what_a_later_run_uses(compiled):
    expected = {f"{graph}.{end}" for graph in ("encoder", "decoder") for end in (
        "translated.har", "network.json", "alls", "optimised.har", "measured.json", "compiled.har", "hef",
        "translate.json", "optimise.json", "measure.json", "compile.json",
        "translate.log", "optimise.log", "measure.log", "compile.log",
    )}  # fmt: skip
    assert {path.name for path in (compiled.root / "work").iterdir()} == expected | {"vendor", "lock"}


def test_every_file_of_a_step_is_in_its_record(compiled):
    for graph in ("encoder", "decoder"):
        for action, ends in (
            ("translate", {"translated.har", "network.json", "translate.log"}),
            ("optimise", {"optimised.har", "optimise.log"}),
            ("measure", {"measured.json", "measure.log"}),
            ("compile", {"compiled.har", "hef", "compile.log"}),
        ):
            record = json.loads((compiled.root / "work" / f"{graph}.{action}.json").read_text())
            assert set(record["files"]) == {f"{graph}.{end}" for end in ends}
            measured = compiled.result.measurements[graph][action]
            assert {name: record[name] for name in measured} == measured


def test_script_is_the_recipe_for_the_parsed_network(compiled):
    network = json.loads((compiled.root / "work" / "encoder.network.json").read_text())["layers"]
    assert {layer["name"].split("/")[0] for layer in network} == {"whisper_toy_en_encoder"}
    script = (compiled.root / "output" / "encoder.alls").read_text()
    assert f"calibset_size={ROWS})" in script  # the recipe asks for more rows than were recorded
    assert "# encoder.blocks.0.mlp.2\n" in script
    assert any("the calibration set has 6" in line for line in compiled.lines)


def copy_of(compiled, root):
    shutil.copytree(compiled.root / "work", root / "work")


def test_second_run_does_nothing_again(compiled, root, dfc_python, fake):
    copy_of(compiled, root)
    fake(faults={"ClientRunner.__init__": {"raise": "must not be started"}})
    result, lines = compile_toy(dfc_python, root)
    assert ran(lines) == []
    assert reused(lines) == STEPS
    assert result == compiled.result
    for name in ("encoder.hef", "decoder.hef", "encoder.alls", "decoder.alls", "dfc.log"):
        assert (root / "output" / name).read_bytes() == (compiled.root / "output" / name).read_bytes()


@pytest.mark.parametrize("how", ["cut", "gone"])
@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("encoder.translated.har", "encoder: translate"),
        ("decoder.network.json", "decoder: translate"),
        ("encoder.measured.json", "encoder: measure"),
        ("encoder.optimise.log", "encoder: optimise"),
    ],
)
def test_damaged_file_is_made_again_and_nothing_else(compiled, root, dfc_python, name, step, how):
    copy_of(compiled, root)
    path = root / "work" / name
    if how == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    _, lines = compile_toy(dfc_python, root)
    assert f"dfc: {name.split('.')[0]}: {name} is missing or damaged and is made again" in lines
    assert ran(lines) == [step]
    assert compiled.result.snr_db == compile_toy(dfc_python, root)[0].snr_db


@pytest.mark.parametrize("name", [None, "key", "files", "seconds", "vendor_snr_db", "lines"])
def test_damaged_record_is_made_again(compiled, root, dfc_python, name):
    copy_of(compiled, root)
    path = root / "work" / "encoder.translate.json"
    record = json.loads(path.read_text())
    record.pop(name, None)
    path.write_text("[1" if name is None else json.dumps(record))
    lines = compile_toy(dfc_python, root)[1]
    assert ran(lines) == ["encoder: translate"]
    assert "dfc: encoder: encoder.translate.json is missing or damaged and is made again" in lines


def other_recipe():
    encoder = dataclasses.replace(toy_recipe().encoder, sixteen_bit=("encoder.blocks.0.mlp.0",))
    return dataclasses.replace(toy_recipe(), encoder=encoder)


def test_attempt_with_another_recipe_leaves_the_log_of_a_good_step(compiled, root, dfc_python, fake, monkeypatch):
    copy_of(compiled, root)
    other = other_recipe()
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "toy_recipe", lambda: other)
        fake(dfc_log=["of the other recipe"], faults={"ClientRunner.save_har": {"raise": "enough"}})
        with pytest.raises(CompileError, match="encoder: optimise failed"):
            compile_toy(dfc_python, root)
    assert "of the other recipe" in (root / "work" / "encoder.optimise.failed.log").read_text()
    fake()
    result, lines = compile_toy(dfc_python, root)
    assert reused(lines) == STEPS
    assert result == compiled.result
    assert (root / "output" / "dfc.log").read_bytes() == (compiled.root / "output" / "dfc.log").read_bytes()


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("recipe", ["encoder: optimise", "encoder: measure", "encoder: compile"]),
        ("calibration", ["decoder: optimise", "decoder: measure", "decoder: compile"]),
        ("holdout", ["decoder: measure"]),
        ("graph", [step for step in STEPS if step.startswith("encoder")]),
        ("version", STEPS),
        ("architecture", STEPS),
        ("code", ["encoder: measure", "decoder: measure"]),
    ],
)
def test_what_depends_on_a_change_is_made_again(compiled, root, dfc_python, fake, monkeypatch, change, again):
    copy_of(compiled, root)
    plan = PLAN
    if change == "recipe":
        recipe = other_recipe()
        monkeypatch.setitem(globals(), "toy_recipe", lambda: recipe)
    elif change in ("calibration", "holdout"):
        files = CALIBRATION if change == "calibration" else HOLDOUT
        damage(root / "calibration" / files.token_embeddings, lambda array: array * np.float32(1.5))
    elif change == "graph":
        with (root / "export" / "encoder.onnx").open("ab") as file:
            file.write(b"\xa2\x06\x01x")  # an unknown field: the same model
    elif change == "version":
        fake(dfc="3.32.0")
    elif change == "architecture":
        plan = dataclasses.replace(PLAN, arch="hailo8l")
    else:
        monkeypatch.setitem(dfc._CODE, "measure", (dfc_worker.measure,))
    result, lines = compile_toy(dfc_python, root, plan)
    assert ran(lines) == again
    assert read_hef(root / "output" / result.encoder).architecture == plan.arch


# What fails


@pytest.mark.parametrize(
    ("method", "graph", "action", "text", "advice"),
    [
        ("translate_onnx_model", "encoder", "translate", "UnsupportedOperationError: Erf", "knows the ARCH"),
        ("load_model_script", "encoder", "optimise", "no such layer", "goes on after the last finished step"),
        ("optimize", "encoder", "optimise", "OOM: out of\nmemory", "memory ran out"),
        ("infer", "encoder", "measure", "No space left on device", "the disk is full"),
        ("compile", "encoder", "compile", "Mapping Failed", "smaller SECONDS or SEQUENCE, or another ARCH"),
        ("save_har", "encoder", "translate", "what", "knows the ARCH"),
        ("load_har", "encoder", "optimise", "what", "goes on after the last finished step"),
    ],
)
def test_failure_of_a_step(root, dfc_python, fake, method, graph, action, text, advice):
    fake(faults={f"ClientRunner.{method}": {"raise": text}})
    with pytest.raises(CompileError) as error:
        compile_toy(dfc_python, root)
    message = str(error.value)
    assert "\n" not in message
    log = root / "work" / f"{graph}.{action}.failed.log"
    shown = " ".join(text.split())
    assert message.startswith(f"dfc: {graph}: {action} failed: AccelerasUnknownError: {shown}; log: {log}; ")
    assert advice in message.split(f"{log}; ")[1]
    assert "Traceback" in log.read_text()
    assert not (root / "work" / f"{graph}.{action}.log").exists()
    assert list((root / "output").iterdir()) == []


def test_interpreter_that_goes_away_after_the_checks(root, dfc_python, tmp_path):
    python = tmp_path / "python"
    program(python, f'#!/bin/sh\nrm "$0"\nexec {dfc_python} "$@"\n')
    with pytest.raises(CompileError) as error:
        compile_toy(str(python), root)
    log = root / "work" / "encoder.translate.failed.log"
    assert f"{python} does not run: No such file or directory; log: {log}; " in str(error.value)
    assert log.read_text() == ""


def test_failure_late_keeps_what_was_done(root, dfc_python, fake):
    fake(faults={"ClientRunner.compile": {"raise": "broken"}})
    with pytest.raises(CompileError, match="compile failed"):
        compile_toy(dfc_python, root)
    assert list((root / "work").glob("*.failed.log")) == [root / "work" / "encoder.compile.failed.log"]
    fake()
    _, lines = compile_toy(dfc_python, root)
    assert list((root / "work").glob("*.failed.log")) == []
    assert reused(lines) == ["encoder: translate", "decoder: translate", "encoder: optimise", "encoder: measure"]


def test_advice_comes_from_the_log_where_the_error_says_nothing(root, dfc_python, fake):
    fake(dfc_log=["Mapping Failed (allocation time: 1m 44s)"], faults={"ClientRunner.optimize": {"raise": "what"}})
    with pytest.raises(CompileError, match="does not fit the chip"):
        compile_toy(dfc_python, root)


def test_telling_lines_are_surfaced_while_it_runs(root, dfc_python, fake):
    line = "Reducing optimization level to 0 because there's no available GPU"
    said = [line, "output_layer1 SNR: 9.179 dB", "dead SNR: -inf dB", "empty SNR: nan dB"]
    fake(dfc_log=said, faults={"ClientRunner.compile": {"raise": "enough"}})
    lines = []
    with pytest.raises(CompileError, match="enough"):
        DataflowCompiler(dfc_python, ANY_MACHINE).compile(toy_job(root, lines.append))
    assert f"dfc: encoder: optimise: [info] {line}" in lines
    assert (
        "dfc: encoder: optimise: SNR of dead by the vendor: -inf dB, below the 10 dB that the vendor calls sensitive"
        in (lines)
    )
    assert "dfc: encoder: optimise: SNR of empty by the vendor: nan dB, which is no number" in lines
    record = json.loads((root / "work" / "encoder.optimise.json").read_text())
    assert record["vendor_snr_db"].items() >= {"output_layer1": 9.179, "dead": None, "empty": None}.items()
    assert (
        "dfc: encoder: optimise: SNR of output_layer1 by the vendor: 9.2 dB, "
        "below the 10 dB that the vendor calls sensitive"
    ) in lines


def test_long_steps_say_that_they_are_alive(root, dfc_python, fake, monkeypatch):
    monkeypatch.setattr(dfc, "_HEARTBEAT_SECONDS", 0.5)
    fake(faults={"ClientRunner.translate_onnx_model": {"sleep": 2.5, "raise": "enough"}})
    lines = []
    with pytest.raises(CompileError):
        DataflowCompiler(dfc_python, ANY_MACHINE).compile(toy_job(root, lines.append))
    alive = [line for line in lines if "min so far; latest: [info] Restored ONNX model" in line]
    assert alive
    assert alive[0].startswith("dfc: encoder: translate: 0 min so far")


def test_dead_outputs_are_refused(root, dfc_python, fake):
    fake(dfc_demote_outputs=True)
    with pytest.raises(CompileError) as error:
        compile_toy(dfc_python, root)
    message = str(error.value)
    assert message.startswith("dfc: decoder: ")
    assert message.endswith("use 3.32, or a recipe without sixteen_bit_outputs")
    assert list((root / "output").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text", "advice"),
    [
        ("encoder.optimise.json", "Is a directory", "move it away"),
        ("encoder.translated.har", "Is a directory", "move it away"),
        ("encoder.translate.log", "Is a directory", "move it away"),
        ("encoder.translate.failed.log", "Is a directory", "move it away"),
        ("encoder.alls", "Is a directory", "move it away"),
        ("lock", "Is a directory", "move it away"),
    ],
)
def test_folder_in_the_place_of_a_file_stops_before_the_long_step(root, dfc_python, name, text, advice):
    path = root / "work" / name
    path.mkdir(parents=True)
    lines = []
    with pytest.raises(CompileError) as error:
        DataflowCompiler(dfc_python, ANY_MACHINE).compile(toy_job(root, lines.append))
    assert str(error.value).startswith(f"dfc: {path}: {text}: {advice}, then run the same command again")
    assert "encoder: optimise" not in ran(lines)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "{work}: No space left on device: free some space on its disk",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied: make it writable"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "/x/y: Read-only file system: make it writable"),
        (
            OSError(errno.EIO, "Input/output error", "/x", None, "/y"),
            "/y: Input/output error: look at it and at its disk",
        ),
    ],
)
def test_disk_that_fails(compiled, root, dfc_python, monkeypatch, error, says):
    copy_of(compiled, root)

    def fails(path, data):
        raise error

    monkeypatch.setattr(dfc, "_write", fails)
    with pytest.raises(CompileError) as raised:
        compile_toy(dfc_python, root)
    assert (
        str(raised.value) == f"dfc: {says.format(work=root / 'work')}, then run the same command again: it goes on here"
    )


def test_end_of_the_reader_of_what_is_reported_is_no_fault_of_the_disk(root, dfc_python):
    def report(line):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        DataflowCompiler(dfc_python, ANY_MACHINE).compile(toy_job(root, report))


def test_recipe_that_does_not_fit_is_refused_before_the_long_steps(root, dfc_python, monkeypatch):
    decoder = dataclasses.replace(toy_recipe().decoder, sixteen_bit=("decoder.blocks.7.*",))
    recipe = dataclasses.replace(toy_recipe(), decoder=decoder)
    monkeypatch.setitem(globals(), "toy_recipe", lambda: recipe)
    lines = []
    with pytest.raises(RecipeError, match=r"blocks\.7"):
        DataflowCompiler(dfc_python, ANY_MACHINE).compile(toy_job(root, lines.append))
    assert ran(lines) == ["encoder: translate", "decoder: translate"]


def test_checks_stop_a_compilation_before_it_starts(root, dfc_python, fake):
    fake(dfc="5.1.0")
    (root / "calibration" / HOLDOUT.mel).unlink()
    with pytest.raises(CompileError) as error:
        compile_toy(dfc_python, root)
    message = str(error.value)
    assert message.startswith("the Dataflow Compiler was not started: Dataflow Compiler 5.1.0 does not compile for")
    assert "holdout_mel.npy cannot be read" in message
    assert not (root / "work").exists()


def test_folders_may_be_relative(compiled, root, dfc_python, monkeypatch):
    monkeypatch.chdir(root)
    result, lines = compile_toy(dfc_python, Path())
    assert ran(lines) == STEPS
    assert result.snr_db == compiled.result.snr_db


def test_second_run_at_the_same_time_is_refused(root, dfc_python):
    (root / "work").mkdir()
    with (root / "work" / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CompileError, match="another compilation is at work in"):
            compile_toy(dfc_python, root)


def test_networks_without_onnx_names_compile_too(root, dfc_python, fake):
    fake(dfc_original_names=False)
    assert compile_toy(dfc_python, root)[0].encoder == "encoder.hef"


def hef(**changes):
    plan = ShapePlan.make("tiny", "hailo8")
    inputs = (HefStream("e/input_layer1", (1, 1000, 80), 1, 0.0, 1.0, ()),)
    outputs = (HefStream("e/conv33", (1, 500, 384), 1, 0.0, 1.0, ()),)
    fields = {
        "path": Path("encoder.hef"), "header_version": 2, "architecture": "hailo8", "sdk_version": "3.33.0",
        "created": None, "network_groups": ("e",), "inputs": inputs, "outputs": outputs, **changes,
    }  # fmt: skip
    return Hef(**{**{field.name: None for field in dataclasses.fields(Hef)}, **fields}), plan


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"sdk_version": "3.31.0"}, None),
        ({"architecture": "hailo8l"}, "compiled for hailo8l, not for hailo8: use Dataflow Compiler 3.x, from 3.31 on"),
        ({"outputs": ()}, r"outputs have the shapes \[\] where \[\(1, 500, 384\)\] belong"),
        ({"inputs": (HefStream("x", (1, 1000, 79), 1, 0.0, 1.0, ()),)}, "inputs have the shapes"),
    ],
)
def test_hef_of_something_else(changes, says):
    made, plan = hef(**changes)
    problem = hef_problem(made, plan, "encoder")
    if says is None:
        assert problem is None
    else:
        assert re.match(f".*{says}", problem)


@pytest.mark.parametrize(
    ("says", "warns"), [("3.33.0", False), ("3.33.1", False), ("", False), ("3.31.0", True), ("5.33.0", True)]
)
def test_hef_that_names_another_compiler_is_a_warning(compiled, root, dfc_python, monkeypatch, says, warns):
    copy_of(compiled, root)
    monkeypatch.setattr(dfc, "read_hef", lambda path: dataclasses.replace(read_hef(path), sdk_version=says))
    result, lines = compile_toy(dfc_python, root)
    assert result == compiled.result
    for graph in ("encoder", "decoder"):
        path = root / "work" / f"{graph}.hef"
        warning = (
            f"dfc: {graph}: {path} names Dataflow Compiler {says}, though 3.33.0 was run: if it does not run on the "
            "device, look for two installations in the interpreter of DFC_PYTHON"
        )
        assert (warning in lines) == warns


def test_net_names():
    assert net_name("tiny.en", "encoder") == "whisper_tiny_en_encoder"
    assert net_name("base", "decoder") == "whisper_base_decoder"


# Interruptions

RUN = """
import runpy, sys
from pathlib import Path
test = runpy.run_path(sys.argv[1])
job = test["toy_job"](Path(sys.argv[2]), lambda line: print(line, flush=True))
try:
    test["DataflowCompiler"](sys.argv[3], test["ANY_MACHINE"]).compile(job)
except KeyboardInterrupt:
    sys.exit(130)
except test["CompileError"] as error:
    sys.exit(str(error))
"""

# Where to interrupt: the step, the method that is held in the middle, and what shows that it is there.
PLACES = [
    ("encoder: translate", "translate_onnx_model", "Restored ONNX model"),
    ("encoder: optimise", "optimize", "entries for finetune"),
    ("encoder: measure", "infer", "No GPU chosen"),
    ("encoder: compile", "compile", "Using Multi-context flow"),
    ("decoder: optimise", "optimize", "entries for finetune"),
]


def children(pid):
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def start_and_hold(python, root, fake, step, method, sign):
    """Start a driver and wait until its worker is in the middle of a step; return the process."""
    fake(faults={f"ClientRunner.{method}": {"sleep": 600}})
    graph, action = step.split(": ")
    log = root / "work" / "partial" / f"{graph}.{action}.log"
    log.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, __file__, str(root), python],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: log.exists() and sign in log.read_text(), 60)
        time.sleep(0.3)
        assert process.poll() is None
    except BaseException:
        process.kill()
        raise
    return process


def interrupt(process, how):
    """Interrupt the driver or its worker; return the driver's exit status, output and errors."""
    workers = children(process.pid)
    families = [*workers, *(child for worker in workers for child in children(worker))]
    assert len(families) >= 2  # the worker and its watcher
    if how == "kill worker":
        os.kill(workers[0], signal.SIGKILL)
    else:
        process.send_signal(signal.SIGINT if how == "ctrl-c" else signal.SIGKILL)
    output, errors = process.communicate(timeout=30)
    wait_for(lambda: not any(alive(pid) for pid in families))
    return process.returncode, output, errors


@pytest.mark.parametrize("how", ["ctrl-c", "kill driver", "kill worker"])
def test_interrupted_in_every_step_and_resumed(compiled, root, dfc_python, fake, how):
    done = []
    for step, method, sign in PLACES:
        process = start_and_hold(dfc_python, root, fake, step, method, sign)
        status, output, errors = interrupt(process, how)
        lines = output.splitlines()
        assert reused(lines) == done
        assert step in ran(lines)
        work = root / "work"
        failed_log = work / f"{step.replace(': ', '.')}.failed.log"
        assert failed_log.exists() == (how != "kill driver")
        if how == "ctrl-c":
            assert status == 130
            assert lines[-1] == f"dfc: {step} interrupted (log: {failed_log}); the steps before it are kept in {work}"
            assert sign in failed_log.read_text()
        elif how == "kill driver":
            assert status == -signal.SIGKILL
        else:
            assert status == 1
            assert f"dfc: {step} failed: Killed: the process was killed by signal 9" in errors
            assert f"; log: {failed_log}; " in errors
            assert sign in failed_log.read_text()
        done = [name for name in STEPS if name in (*done, *ran(lines)) and name != step]
        fake()
        # The decoder's first step runs in the run after, or ran before the interruption.
    result, lines = compile_toy(dfc_python, root)
    assert reused(lines) == done
    assert sorted([*ran(lines), *done]) == sorted(STEPS)
    assert list((root / "work").glob("*.failed.log")) == []
    assert (root / "output" / "dfc.log").read_text().count("==> ") == len(STEPS)
    assert result.snr_db == compiled.result.snr_db
    for name in ("encoder.alls", "decoder.alls"):
        assert (root / "output" / name).read_bytes() == (compiled.root / "output" / name).read_bytes()
    for name in ("encoder.measured.json", "decoder.measured.json", "encoder.network.json", "decoder.network.json"):
        assert (root / "work" / name).read_bytes() == (compiled.root / "work" / name).read_bytes()


def test_half_a_har_is_never_used(root, dfc_python, fake):
    process = start_and_hold(dfc_python, root, fake, "encoder: translate", "save_har", "Translation completed")
    partial = root / "work" / "partial" / "encoder.translated.har"
    wait_for(partial.exists)
    interrupt(process, "kill driver")
    assert partial.exists()
    assert not (root / "work" / "encoder.translated.har").exists()
    fake()
    _, lines = compile_toy(dfc_python, root)
    assert ran(lines) == STEPS
    assert not partial.exists()


# The networks as rungs of an evaluation


def asked():
    """Inputs of both graphs: mel, features and token embeddings."""
    random = np.random.default_rng(5)
    shapes = ((1, 100, 80), (1, 50, 32), (12, 1, 32))
    return [random.normal(0, 1, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize(
    ("form", "least", "most"), [("dfc-native", 80, 200), ("dfc-optimised", 80, 200), ("dfc-quantised", 10, 60)]
)
def test_networks_give_what_the_float_graphs_give(compiled, dfc_python, form, least, most):
    networks = DfcNetworks.find(compiled.root / "work", dfc_python)
    mel, features, embeddings = asked()
    export = compiled.root / "export"
    with (
        DfcBackend(networks, form, ("encoder", "decoder"), PLAN, export) as backend,
        open_float_backend(export) as reference,
    ):
        assert least < signal_to_noise(reference.encode(mel), backend.encode(mel)) < most
        rows = [0, 11, 3]
        for _ in range(2):
            found = backend.decode(features, embeddings, rows)
            assert found.shape == (3, DIMS.n_vocab)
            assert least < signal_to_noise(reference.decode(features, embeddings, rows), found) < most


def test_one_graph_alone_needs_one_process(compiled, dfc_python):
    networks = DfcNetworks.find(compiled.root / "work", dfc_python)
    before = children(os.getpid())
    with DfcBackend(networks, "dfc-quantised", ("encoder",), PLAN, compiled.root / "export") as backend:
        (process,) = set(children(os.getpid())) - set(before)
        backend.encode(asked()[0])
    assert not Path(f"/proc/{process}").exists()


def test_networks_that_are_not_there_say_why(compiled, dfc_python, tmp_path):
    assert "compile with Hailo's compiler first" in DfcNetworks.find(tmp_path, dfc_python)
    assert "has no hailo_sdk_client" in DfcNetworks.find(compiled.root / "work", sys.executable)
    assert "cannot be found" in DfcNetworks.find(compiled.root / "work", str(tmp_path / "python"))
    shutil.copy(compiled.root / "work" / "encoder.translated.har", tmp_path)
    networks = DfcNetworks.find(tmp_path, dfc_python)
    assert networks.missing("encoder", "dfc-native") is None
    assert "encoder.optimised.har is missing" in networks.missing("encoder", "dfc-quantised")
    assert "decoder.translated.har is missing" in networks.missing("decoder", "dfc-native")


def serve(python, har, tmp_path):
    return ServedNetwork(python, har, "SDK_QUANTIZED", tmp_path / "served.log")


def test_a_network_that_cannot_be_loaded_says_why(compiled, dfc_python, tmp_path):
    with pytest.raises(BackendError, match=r"InvalidStateException: .*infer_context.*; log: .*served\.log"):
        serve(dfc_python, compiled.root / "work" / "encoder.translated.har", tmp_path)
    (tmp_path / "half.har").write_bytes(b"half")
    with pytest.raises(BackendError, match="HailoArchiveException"):
        serve(dfc_python, tmp_path / "half.har", tmp_path)
    with pytest.raises(BackendError, match="No such file"):
        serve(str(tmp_path / "python"), tmp_path / "half.har", tmp_path)


def test_a_network_that_hangs_is_ended(vendor, tmp_path, monkeypatch):
    monkeypatch.setattr(dfc_inference, "OPENING_SECONDS", 1.0)
    before = children(os.getpid())
    python = vendor("subprocess.Popen(['sleep', '60']); time.sleep(60)")
    (tmp_path / "hailo_sdk_client.py").open("a").write("\nclass InferenceContext:\n    pass\n")
    with pytest.raises(BackendError, match="no answer within 1 s"):
        serve(python, tmp_path / "x.har", tmp_path)
    assert children(os.getpid()) == before


def test_a_network_whose_process_is_killed_fails_at_once_and_for_good(compiled, dfc_python, tmp_path):
    before = children(os.getpid())
    with serve(dfc_python, compiled.root / "work" / "encoder.optimised.har", tmp_path) as network:
        (process,) = set(children(os.getpid())) - set(before)
        os.kill(int(process), signal.SIGKILL)
        for words in ("killed by signal 9", "has ended before"):
            with pytest.raises(BackendError, match=words):
                network.infer([asked()[0][None]])


def test_a_refused_input_ends_the_network_with_its_reason(compiled, dfc_python, tmp_path):
    with serve(dfc_python, compiled.root / "work" / "encoder.optimised.har", tmp_path) as network:
        with pytest.raises(BackendError, match=r"ValueError: input .* fits 0 of the arrays"):
            network.infer([asked()[1][None]])
        with pytest.raises(BackendError, match="has ended before"):
            network.infer([asked()[0][None]])


def test_outputs_are_told_apart_by_what_they_hold():
    random = np.random.default_rng(0)
    parts = [random.normal(size=(12, size)) for size in (25, 25, 25, 28)]
    noisy = [part + 0.3 * random.normal(size=part.shape) + 5 for part in parts]
    assert order_of([noisy[2], noisy[3], noisy[0], noisy[1]], parts) == [2, 3, 0, 1]
    with pytest.raises(BackendError, match="no output of the decoder is like part 1"):
        order_of([noisy[0], noisy[0], noisy[2], noisy[3]], parts)
    with pytest.raises(BackendError, match="none of its shape"):
        order_of(noisy[:3], parts)
    with pytest.raises(BackendError, match="cannot be told apart"):
        order_of([*noisy, noisy[0]], parts)
