"""The toolchain's doctor: the DFC against architecture, Python and HailoRT, the machine, and what was made."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from whisper_runtime.doctor import NOTE, OK, PROBLEM, Check, Probe
from whisper_toolchain import cli, doctor
from whisper_toolchain.compilers import dfc_checks
from whisper_toolchain.compilers.dfc_checks import Requirements, VendorTools
from whisper_toolchain.doctor import (
    check_dfc,
    check_disk,
    check_git,
    check_gpu,
    check_machine,
    check_memory,
    check_stages,
    graphics_cards,
    toolchain_checks,
)
from whisper_toolchain.errors import CompileError, ShapePlanError
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import run_stage
from whisper_toolchain.workspace import Workspace

try:
    import tomllib
except ImportError:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
NEEDS = Requirements(memory=16_000, advised_memory=32_000, disk=10_000_000_000)


def tools(version="3.33.0", python=(3, 10, 12), problem=None):
    return VendorTools("/opt/dfc/bin/python", version, problem, python, "x86_64")


def by_name(checks):
    return {check.check: check for check in checks}


# The Dataflow Compiler


def test_no_dfc_is_a_note_unless_one_was_named():
    (unasked,) = check_dfc(None, None, "hailo8", None)
    assert (unasked.check, unasked.status) == ("dfc", NOTE)
    assert "this Python has no hailo_sdk_client" in unasked.found
    assert "the emulator works without" in unasked.advice
    assert "DFC_PYTHON=/path/to/venv/bin/python" in unasked.advice
    (asked,) = check_dfc(None, "/opt/dfc/bin/python", "hailo8", None)
    assert (asked.status, asked.found) == (PROBLEM, "DFC_PYTHON=/opt/dfc/bin/python has no hailo_sdk_client")


@pytest.mark.parametrize(
    ("version", "arch", "status", "advice"),
    [
        ("3.31.0", "hailo8", OK, ""),
        ("3.33.0", "hailo8l", OK, ""),
        ("5.1.0", "hailo10h", OK, ""),
        ("3.33.0", "hailo10h", PROBLEM, "hailo10h needs DFC 5.x, or build for ARCH=hailo8 or ARCH=hailo8l"),
        ("5.1.0", "hailo8", PROBLEM, "hailo8 needs DFC 3.x, from 3.31 on, or build for ARCH=hailo10h"),
        ("3.30.0", "hailo8", PROBLEM, "hailo8 needs DFC 3.x, from 3.31 on"),
        ("unknown", "hailo8", PROBLEM, "install DFC 3.x, from 3.31 on"),
    ],
)
def test_the_dfc_must_be_one_that_compiles_for_the_architecture(version, arch, status, advice):
    check = check_dfc(tools(version), "/opt/dfc/bin/python", arch, None)[0]
    assert (check.check, check.status, check.advice) == ("dfc", status, advice)
    assert version in check.found


@pytest.mark.parametrize(
    ("python", "status"),
    [((3, 8, 10), PROBLEM), ((3, 10, 0), OK), ((3, 12, 9), OK), ((3, 13, 0), PROBLEM)],
)
def test_the_dfc_has_a_range_of_pythons(python, status):
    check = by_name(check_dfc(tools(python=python), None, "hailo8", None))["dfc-python"]
    assert (check.status, check.found) == (status, ".".join(map(str, python)))
    assert ("3.10 to 3.12" in check.advice) == (status == PROBLEM)


def test_a_dfc_that_cannot_be_imported_is_a_problem():
    first, python = check_dfc(tools(None, problem="ImportError: no libcudart"), None, "hailo8", None)
    assert first.status == PROBLEM
    assert first.found == "hailo_sdk_client in this Python cannot be used (ImportError: no libcudart)"
    assert python.status == OK
    assert "it tells no version" in check_dfc(tools(None), None, "hailo8", None)[0].found


@pytest.mark.parametrize(
    ("dfc", "hailort", "status", "says"),
    [
        ("3.33.0", None, OK, "the device needs HailoRT 4.23"),
        ("3.33.0", "4.23.0", OK, "belongs to HailoRT 4.23.0, which is here"),
        ("3.33.0", "4.20.0", NOTE, "see that the device has HailoRT 4.23"),
        ("5.1.0", "5.1.1", OK, "which is here"),
        ("3.40.0", "4.23.0", NOTE, "is not known"),
    ],
)
def test_the_dfc_belongs_to_a_hailort(dfc, hailort, status, says):
    check = by_name(check_dfc(tools(dfc), None, "hailo10h" if dfc[0] == "5" else "hailo8", hailort))["dfc-hailort"]
    assert check.status == status
    assert says in f"{check.found}: {check.advice}"


# The machine


def test_git_is_needed_for_the_patches():
    assert check_git("/usr/bin/git").status == OK
    assert check_git(None) == Check(
        "git", PROBLEM, "not found", "install git: it applies the patches to openai-whisper"
    )


@pytest.mark.parametrize(
    ("machine", "has_dfc", "status"),
    [("x86_64", True, OK), ("aarch64", True, PROBLEM), ("aarch64", False, NOTE)],
)
def test_the_dfc_runs_on_one_processor(machine, has_dfc, status):
    assert check_machine(machine, has_dfc).status == status


@pytest.mark.parametrize(
    ("size", "has_dfc", "status"),
    [(14_879, True, PROBLEM), (14_879, False, NOTE), (14_880, True, NOTE), (29_759, True, NOTE), (29_760, True, OK)],
)
def test_memory_has_two_marks(size, has_dfc, status):
    assert check_memory(size, has_dfc, NEEDS).status == status


@pytest.mark.parametrize("size", [14.8e9, 14.9e9, 16e9, 29.7e9, 29.8e9, 32e9])
@pytest.mark.parametrize("python", [(3, 9, 9), (3, 10, 0), (3, 12, 9), (3, 13, 0)])
def test_doctor_and_compilation_agree(size, python, tmp_path, monkeypatch):
    monkeypatch.setattr(dfc_checks, "total_memory", lambda: int(size))
    monkeypatch.setattr(dfc_checks, "calibration_problems", lambda folder, plan: [])
    needs = Requirements(disk=0)
    job = SimpleNamespace(plan=ShapePlan.make("tiny", "hailo8"), work=tmp_path, calibration=tmp_path)
    checks = [check_memory(int(size), True, needs), by_name(check_dfc(tools(python=python), None, "hailo8", None))]
    statuses = {checks[0].status, checks[1]["dfc-python"].status}
    try:
        expected = NOTE if dfc_checks.check_before(job, tools(python=python), needs) else OK
    except CompileError:
        expected = PROBLEM
    assert next(status for status in (PROBLEM, NOTE, OK) if status in statuses) == expected


def test_the_marks_are_those_of_the_vendor():
    check = check_memory(8_000_000_000, True, Requirements())
    assert (check.found, check.advice) == ("8.0 GB", "the DFC needs 16.0 GB, better 32.0 GB")


@pytest.mark.parametrize(
    ("free", "has_dfc", "status"),
    [(2e9, False, PROBLEM), (5e9, False, NOTE), (5e9, True, PROBLEM), (10e9, True, OK)],
)
def test_the_disk_has_two_marks(free, has_dfc, status):
    assert check_disk(int(free), has_dfc, NEEDS).status == status


def test_graphics_cards_are_what_the_drivers_program_lists(tmp_path):
    program = tmp_path / "nvidia-smi"

    def lists(script):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return graphics_cards(str(program), limit=1.0)

    assert lists("echo 'NVIDIA RTX A2000'; echo") == ["NVIDIA RTX A2000"]
    assert lists("echo 'NVIDIA-SMI has failed'; exit 9") == []
    assert lists("echo card; exec sleep 30") == []
    assert graphics_cards(str(tmp_path / "none")) == []


def test_without_a_card_the_dfc_optimises_less():
    assert check_gpu(["NVIDIA RTX A2000"]) == Check("gpu", OK, "NVIDIA RTX A2000")
    note = check_gpu([])
    assert note.status == NOTE
    assert "lowers its optimisation level" in note.advice


# What was made


def test_stages_are_there_or_the_command_that_makes_them(tmp_path):
    workspace, plan = Workspace(tmp_path), ShapePlan.make("tiny", "hailo8l")
    assert {check.check: check.status for check in check_stages(workspace, plan)} == {
        "stage-fetch": NOTE,
        "stage-export": NOTE,
        "stage-calibrate": NOTE,
        "stage-compile": NOTE,
        "stage-bundle": NOTE,
    }
    run_stage(
        "export",
        workspace.export(plan),
        {},
        lambda folder: {"size": (folder / "encoder.onnx").write_bytes(b"graph")},
        lambda line: None,
    )
    stages = by_name(check_stages(workspace, plan))
    assert stages["stage-export"] == Check("stage-export", OK, str(workspace.export(plan)))
    assert stages["stage-fetch"].advice == "make fetch VARIANT=tiny ARCH=hailo8l"
    (workspace.export(plan) / "encoder.onnx").write_bytes(b"changed")
    assert by_name(check_stages(workspace, plan))["stage-export"].status == NOTE


def test_a_damaged_bundle_is_a_problem(tmp_path):
    workspace, plan = Workspace(tmp_path), ShapePlan.make("tiny", "hailo8")
    workspace.bundle(plan).mkdir(parents=True)
    (workspace.bundle(plan) / "manifest.json").write_text("{}")
    check = by_name(check_stages(workspace, plan))["stage-bundle"]
    assert (check.status, check.advice) == (PROBLEM, "make bundle VARIANT=tiny ARCH=hailo8")


def test_a_finished_bundle_says_what_it_is(tiny_en_bundle, workspace, tiny_en_plan):
    stages = by_name(check_stages(workspace, tiny_en_plan))
    assert {check.status for check in stages.values()} == {OK}
    assert "EMULATED: runs on CPUs, not on a Hailo device" in stages["stage-bundle"].found


# The whole


@pytest.fixture
def no_hailort(monkeypatch):
    """HailoRT's package is asked for once only, and is not here."""
    monkeypatch.setattr(doctor, "probe_hailort", Probe)


def test_everything_of_the_runtime_is_looked_at_too(no_hailort, tmp_path):
    checks = by_name(toolchain_checks(Workspace(tmp_path), "hailo8", None, None))
    assert {
        "python", "numpy", "soundfile", "soxr", "tiktoken", "xxhash", "onnxruntime", "hailort", "driver", "device-node",
        "device", "torch", "onnx", "git", "dfc", "machine", "memory", "disk", "gpu",
    } == set(checks)  # fmt: skip
    assert checks["torch"].status == OK
    assert checks["onnx"].status == OK


def test_the_ranges_are_those_of_the_package():
    project = tomllib.loads((ROOT / "toolchain" / "pyproject.toml").read_text())["project"]
    assert {f"{name}=={oldest}" for name, (oldest, _) in doctor.PACKAGES.items()} <= set(project["dependencies"])
    assert project["requires-python"] == ">=3.10,<3.13"


def test_a_device_is_never_expected_where_bundles_are_made(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "probe_hailort", lambda: Probe(installed=True, hailort="4.23.0", step="done"))
    checks = by_name(toolchain_checks(Workspace(tmp_path), "hailo8", None, None))
    assert checks["hailort"].status == OK
    assert checks["device"].status == NOTE
    assert "service" not in checks


@pytest.mark.parametrize(("variant", "arch"), [(None, "hailo9"), ("huge", "hailo8")])
def test_unknown_names_are_refused(no_hailort, tmp_path, variant, arch):
    with pytest.raises(ShapePlanError, match="choose one of"):
        toolchain_checks(Workspace(tmp_path), arch, variant, None)


def test_the_emulators_engine_is_needed_where_bundles_are_made(no_hailort, tmp_path, monkeypatch):
    from whisper_runtime import doctor as runtime
    from whisper_runtime.doctor import Import, import_package

    gone = Import(None, "not installed")
    monkeypatch.setattr(runtime, "import_package", lambda name: gone if name == "onnxruntime" else import_package(name))
    assert by_name(toolchain_checks(Workspace(tmp_path), "hailo8", None, None))["onnxruntime"].status == PROBLEM


def dfc_python(folder, package):
    """An interpreter with a hailo_sdk_client of its own."""
    site = folder / "site" / "hailo_sdk_client"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text(package)
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{site.parent}" exec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_the_command_asks_the_named_interpreter_and_ends_with_0_or_1(no_hailort, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "Requirements", lambda: Requirements(memory=1, advised_memory=1, disk=1))
    monkeypatch.setenv("DFC_PYTHON", dfc_python(tmp_path / "new", "__version__ = '5.1.0'"))
    command = ["doctor", "--root", str(tmp_path), "--json", "--arch"]
    assert cli.main([*command, "hailo10h"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    (check,) = [check for check in report["checks"] if check["check"] == "dfc"]
    assert check["found"].startswith("5.1.0 in DFC_PYTHON=")
    assert cli.main([*command, "hailo8"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False
    old = dfc_python(tmp_path / "old", "__version__ = '3.33.0'")
    assert cli.main([*command, "hailo8", "--dfc-python", old]) == 0


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/true"])
def test_an_interpreter_that_is_none_is_a_problem_and_the_rest_is_still_told(no_hailort, tmp_path, capsys, program):
    assert cli.main(["doctor", "--root", str(tmp_path), "--arch", "hailo8", "--dfc-python", program]) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.split()[1] == "dfc"]
    assert line.startswith("problem")
    assert program in line
    assert line.count("set DFC_PYTHON") == 1
    assert lines[-1].split()[1] == "gpu"


def test_make_doctor_passes_its_variables_on():
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run(
        [make, "-n", "doctor", "ARCH=hailo10h", "VARIANT=base", "DFC_PYTHON=/my venv/bin/python", "JSON=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    command = " ".join(done.stdout.split())
    variables = "--variant 'base' --arch 'hailo10h' --dfc-python '/my venv/bin/python' --json"
    assert f"whisper-toolchain doctor {variables}" in command
    plain = subprocess.run([make, "-n", "doctor"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--json" not in plain.stdout
