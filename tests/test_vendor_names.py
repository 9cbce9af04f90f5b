"""Every name of the vendor's two packages that the product uses, and where it was checked.

`hailo_platform` (pyHailoRT) has public sources; each of its names below was read in the file given, at the tags
v4.20.0, v4.23.0 and v5.2.0 of hailo-ai/hailort, but for the one that says since when. `hailo_sdk_client` (the
Dataflow Compiler) has none; what is "documented only" is known from FACTS section 2 and from public code that calls it.
"""

import ast
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What a module says that imports a vendor's package, or is handed it.
SIGNS = ("hailo_platform", "hailo_sdk_client", "import_hailort")

_PYTHON = "hailort/libhailort/bindings/python/platform/hailo_platform"
PACKAGE = f"{_PYTHON}/__init__.py"
CLASSES = f"{_PYTHON}/pyhailort/pyhailort.py"
NATIVE = "hailort/libhailort/bindings/python/src/pyhailort.cpp"

HAILO_PLATFORM = {
    "__version__": PACKAGE,
    "Device": PACKAGE,
    "FormatType": PACKAGE,
    "HEF": PACKAGE,
    "HailoSchedulingAlgorithm": PACKAGE,
    "VDevice": PACKAGE,
    # HEF
    "get_input_vstream_infos": CLASSES,
    "get_output_vstream_infos": CLASSES,
    "get_sorted_output_names": CLASSES,
    "get_original_names_from_vstream_name": CLASSES,
    # stream infos
    "name": NATIVE,
    "shape": NATIVE,
    "format": NATIVE,
    "type": NATIVE,
    "quant_info": NATIVE,
    "qp_zp": NATIVE,
    "qp_scale": NATIVE,
    "UINT8": NATIVE,
    "UINT16": NATIVE,
    "FLOAT32": NATIVE,
    # VDevice and its parameters
    "create_params": CLASSES,
    "create_infer_model": CLASSES,
    "get_physical_devices": CLASSES,
    "release": CLASSES,
    "scheduling_algorithm": NATIVE,
    "group_id": NATIVE,
    "multi_process_service": NATIVE,
    "ROUND_ROBIN": NATIVE,
    # Device
    "scan": CLASSES,
    "control": CLASSES,
    "identify": CLASSES,
    "device_architecture": CLASSES,
    "firmware_version": CLASSES,
    "get_chip_temperature": CLASSES,
    "ts0_temperature": NATIVE,
    # InferModel, ConfiguredInferModel, Bindings, AsyncInferJob
    "input": CLASSES,
    "output": CLASSES,
    "set_format_type": CLASSES,
    "configure": CLASSES,
    "create_bindings": CLASSES,
    "set_buffer": CLASSES,
    "wait_for_async_ready": CLASSES,
    "timeout_ms": CLASSES,
    "run_async": CLASSES,
    "completion_info": CLASSES,
    "exception": CLASSES,
    "wait": CLASSES,
    "shutdown": CLASSES,
    # exceptions, told by the names of their classes
    "HailoRTInvalidArgumentException": CLASSES,
    "HailoRTTimeout": CLASSES,
    "HailoRTInvalidOperationException": CLASSES,
    "HailoRTInvalidHEFException": CLASSES,
    "HailoRTDriverOperationFailedException": CLASSES,
    "HailoRTNotFoundException": CLASSES,
    "HailoCommunicationClosedException": CLASSES,
    "HailoRTStreamAborted": CLASSES,
    "HailoRTHEFNotCompatibleWithDevice": f"{CLASSES}, since v4.21.0; before, HailoRTInvalidHEFException",
}

DOCUMENTED_ONLY = "documented only"

HAILO_SDK_CLIENT = dict.fromkeys(
    (
        "ClientRunner",
        "InferenceContext",
        "SDK_NATIVE",
        "SDK_QUANTIZED",
        "hw_arch",
        "har",
        "translate_onnx_model",
        "start_node_names",
        "end_node_names",
        "net_input_shapes",
        "save_har",
        "load_model_script",
        "optimize",
        "work_dir",
        "compile",
        "infer_context",
        "infer",
        "get_hn",
        "__version__",
    ),
    DOCUMENTED_ONLY,
)

# Names that the fakes have too, but that belong to something else where these modules use them.
OURS = {"check_usable", "compile", "flags", "get", "inputs", "name", "outputs", "path", "run", "shape", "state", "wait"}


@pytest.fixture(scope="module")
def used():
    """Attributes, imported names, keyword arguments and strings of all modules that name a vendor's package."""
    names = set()
    for module in sorted((*ROOT.glob("runtime/**/*.py"), *ROOT.glob("toolchain/**/*.py"))):
        source = module.read_text()
        if not any(sign in source for sign in SIGNS):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.keyword | ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.ImportFrom):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    return names


def public_names(package):
    """The names of a fake package's public things and, one level down and further, of its classes."""
    found, seen, pending = set(), set(), [package]
    while pending:
        thing = pending.pop()
        for name in dir(thing):
            if name.startswith("_") and name != "__version__":
                continue
            found.add(name)
            value = getattr(thing, name, None)
            if inspect.isclass(value) and value not in seen and value.__module__.split(".")[0] == package.__name__:
                seen.add(value)
                pending.append(value)
    return found


def test_every_name_in_use_is_listed(used, fake_vendor_path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    import hailo_platform
    import hailo_sdk_client

    for package, listed in ((hailo_platform, HAILO_PLATFORM), (hailo_sdk_client, HAILO_SDK_CLIENT)):
        in_use = public_names(package) & used
        assert in_use <= listed.keys() | OURS | (HAILO_PLATFORM.keys() if package is hailo_sdk_client else set())


def test_nothing_is_listed_that_is_not_in_use(used):
    worked_out = {"FLOAT32"}  # the format type of a stream is named after its numpy dtype
    assert {*HAILO_PLATFORM, *HAILO_SDK_CLIENT} - worked_out <= used
