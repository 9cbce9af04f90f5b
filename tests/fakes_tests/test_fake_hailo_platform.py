"""The fake of HailoRT's package is as strict as the real one: every strictness is provoked here."""

import importlib
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent.parent
GROUP = "toy_encoder"
SCALE, ZERO_POINT = 0.5, 3.0
WIDTH, FEATURES = 6, 8
SHAPE = (1, WIDTH, FEATURES)


def graph(nodes, inputs, outputs, constants=()):
    """A model's bytes."""
    made = helper.make_graph(nodes, "toy", inputs, outputs, list(constants))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def tensor(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def encoder_graph():
    """y (1, W, C) = 2 * x (1, C, 1, W)."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["moved"], perm=[0, 2, 3, 1]),
        helper.make_node("Squeeze", ["moved", "axis"], ["flat"]),
        helper.make_node("Mul", ["flat", "two"], ["y"]),
    ]
    constants = [constant("axis", np.int64([1])), constant("two", np.float32(2))]
    return graph(nodes, [tensor("x", 1, FEATURES, 1, WIDTH)], [tensor("y", 1, WIDTH, FEATURES)], constants)


def decoder_graph():
    """first (1, W, C) = features + 1; second (1, C, 4, 1) = -tokens (1, C, 4, 1)."""
    nodes = [
        helper.make_node("Add", ["features", "one"], ["first"]),
        helper.make_node("Neg", ["tokens"], ["second"]),
    ]
    inputs = [tensor("features", 1, WIDTH, FEATURES), tensor("tokens", 1, FEATURES, 4, 1)]
    outputs = [tensor("first", 1, WIDTH, FEATURES), tensor("second", 1, FEATURES, 4, 1)]
    return graph(nodes, inputs, outputs, [constant("one", np.float32(1))])


@pytest.fixture
def hefs(fake_vendor_path):
    """Builders of a HEF with one input and output, and of one with two."""
    files = importlib.import_module("hef_file")

    def encoder(arch=1, bits=8, version=2, scale=SCALE, zero_point=ZERO_POINT, original="y", **others):
        numbers = {"bytes_per_value": bits // 8, "zero_point": zero_point, "scale": scale}
        x = files.FakeStream(f"{GROUP}/input_layer1", SHAPE, original_names=("x",), **numbers)
        y = files.FakeStream(f"{GROUP}/conv1", SHAPE, original_names=(original,), **numbers)
        payload = files.graph_payload(encoder_graph(), {x.name: "x", y.name: "y"}) if version else b""
        given = {"network_group": GROUP, "inputs": [x], "outputs": [y], "payload": payload, **others}
        return files.build_hef(hw_arch=arch, version=version, **given)

    def decoder(arch=1, version=2):
        numbers = {"bytes_per_value": 2, "zero_point": 30000.0, "scale": 0.01}
        shapes = {"features": SHAPE, "tokens": (4, 1, FEATURES), "first": SHAPE, "second": (4, 1, FEATURES)}
        layers = {"features": "input_layer1", "tokens": "input_layer2", "first": "conv9", "second": "conv2"}
        streams = {
            name: files.FakeStream(f"toy_decoder/{layers[name]}", shapes[name], original_names=(name,), **numbers)
            for name in shapes
        }
        return files.build_hef(
            hw_arch=arch,
            version=version,
            network_group="toy_decoder",
            inputs=[streams["features"], streams["tokens"]],
            outputs=[streams["second"], streams["first"]],
            sorted_outputs=[streams["first"].name, streams["second"].name],
            payload=files.graph_payload(decoder_graph(), {stream.name: name for name, stream in streams.items()}),
        )

    return SimpleNamespace(encoder=encoder, decoder=decoder)


@pytest.fixture
def configuration(tmp_path, monkeypatch):
    """Writes the configuration file."""
    path = tmp_path / "fake.json"
    monkeypatch.setenv("FAKE_HAILO", str(path))

    def write(**settings):
        # In one step: the device's thread reads it at any time.
        (tmp_path / "new.json").write_text(json.dumps(settings))
        (tmp_path / "new.json").replace(path)

    write()
    return write


@pytest.fixture
def load(fake_vendor_path, configuration):
    """Imports the package with a configuration; `.py` is the module with the exceptions."""

    def imported(**settings):
        configuration(**settings)
        package = importlib.import_module("hailo_platform")
        package.py = importlib.import_module("hailo_platform.pyhailort.pyhailort")
        package.native = importlib.import_module("hailo_platform.pyhailort._pyhailort")
        return package

    return imported


@pytest.fixture
def opened(load):
    """Opens VDevices, and closes them in the end."""
    devices = []

    def open_device(scheduled=True, **settings):
        hailo = load(**settings)
        params = hailo.VDevice.create_params()
        if scheduled:
            params.scheduling_algorithm = hailo.HailoSchedulingAlgorithm.ROUND_ROBIN
        devices.append(hailo.VDevice(params))
        return hailo, devices[-1]

    yield open_device
    for device in devices:
        device.release()


def bind(configured, dtype=np.uint8, out_dtype=np.uint8, fill=7):
    """Bindings of the encoder, with its arrays."""
    x, y = np.full(SHAPE, fill, dtype), np.full(SHAPE, 99, out_dtype)
    bindings = configured.create_bindings()
    bindings.input().set_buffer(x)
    bindings.output().set_buffer(y)
    return bindings, x, y


def python(code, *arguments, **variables):
    """A process of its own that sees the fake."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "fakes"), **variables}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


# Import and exceptions


def test_names_are_where_the_real_package_has_them(load):
    hailo = load(hailort="4.20.0")
    assert hailo.__version__ == "4.20.0"
    for name in hailo.__all__:
        assert getattr(hailo, name) is getattr(hailo.py, name)
    for name in ("HailoRTTimeout", "HailoRTPCIeDriverException", "DeviceArchitectureTypes", "AsyncInferCompletionInfo"):
        assert hasattr(hailo.py, name)
    assert not hasattr(hailo.py, "HailoRTHEFNotCompatibleWithDevice")


@pytest.mark.parametrize(
    ("native", "text"),
    [("4.19.0", r"\(4\.19\.0\) does not match pyhailort version \(4\.20\.0\)"), (None, r"libhailort\.so")],
)
def test_a_native_library_of_another_version_fails_the_import(load, native, text):
    with pytest.raises(ImportError, match=text):
        load(hailort="4.20.0", native_version=native)


def test_a_status_becomes_its_exception_with_the_number_in_the_text(load):
    hailo = load(hailort="5.2.0")
    make = hailo.py.ExceptionWrapper.create_exception_from_status
    assert type(make(4)) is hailo.py.HailoRTTimeout
    assert type(make(93)) is hailo.py.HailoRTHEFNotCompatibleWithDevice
    assert type(make(74)) is hailo.HailoRTException
    assert str(make(74)) == "libhailort failed with error: 74 (HAILO_OUT_OF_PHYSICAL_DEVICES)"
    assert str(make(91)) == "libhailort failed with error: 91 (HAILO_HEF_FILE_CORRUPTED)"
    with pytest.raises(hailo.py.HailoStatusInvalidValueException):
        make(98)


def test_a_status_of_a_later_version_is_not_known(load):
    with pytest.raises(Exception, match="not a valid status") as caught:
        load(hailort="4.20.0").py.ExceptionWrapper.create_exception_from_status(93)
    assert not isinstance(caught.value, sys.modules["hailo_platform"].HailoRTException)


@pytest.mark.parametrize(("version", "related"), [("4.23.0", False), ("5.2.0", True)])
def test_an_unwrapped_status_is_a_public_exception_only_since_5(load, version, related):
    hailo = load(hailort=version, faults={"Device.scan": {"status": 36}})
    with pytest.raises(hailo.native.HailoRTStatusException, match=r"^36$") as caught:
        hailo.Device.scan()
    assert isinstance(caught.value, hailo.HailoRTException) is related


@pytest.mark.parametrize(
    "settings",
    [
        {"hailrt": "4.20.0"},
        {"device": {"arch": "HAILO8"}},
        {"device": {"architecture": "hailo8"}},
        {"faults": {"VDevice.creat": {}}},
        {"faults": {"VDevice.create": {"state": 1}}},
        {"faults": {"VDevice.create": {"stall": True}}},
        {"faults": {"ConfiguredInferModel.__exit__": {"status": 8}}},
        {"output": "noise"},
    ],
)
def test_an_unknown_key_of_the_configuration_is_an_error(load, settings):
    with pytest.raises(AssertionError, match="does not know"):
        load(**settings)


def test_keys_of_the_other_fake_are_passed_over(load):
    load(dfc="3.33.0", dfc_log=["a"], faults={"ClientRunner.optimize": {"raise": "x"}}).Device.scan()


# HEF


def test_a_hef_shows_its_streams_in_the_compilers_order(load, hefs, tmp_path):
    hailo = load()
    path = tmp_path / "d.hef"
    path.write_bytes(hefs.decoder())
    hef = hailo.HEF(str(path))
    assert hef.get_network_group_names() == ["toy_decoder"]
    assert [info.name for info in hef.get_input_vstream_infos()] == [
        "toy_decoder/input_layer1",
        "toy_decoder/input_layer2",
    ]
    assert hef.get_sorted_output_names() == ["toy_decoder/conv9", "toy_decoder/conv2"]
    assert [info.name for info in hef.get_output_vstream_infos()] == hef.get_sorted_output_names()
    info = hef.get_output_vstream_infos()[0]
    assert (info.shape, info.format.type, info.quant_info.qp_zp) == (SHAPE, hailo.FormatType.UINT16, 30000)
    assert info.quant_info.qp_scale == np.float32(0.01)
    assert hef.get_original_names_from_vstream_name("toy_decoder/conv2") == ["second"]
    assert hef.get_vstream_name_from_original_name("first") == "toy_decoder/conv9"
    for lookup in (hef.get_original_names_from_vstream_name, hef.get_vstream_name_from_original_name):
        with pytest.raises(hailo.py.HailoRTNotFoundException):
            lookup("conv3")
    twice = hailo.HEF(hefs.encoder(original="x"))  # the output says that it is x, too
    with pytest.raises(hailo.py.HailoRTInvalidHEFException):
        twice.get_vstream_name_from_original_name("x")
    with pytest.raises(hailo.native.HailoRTStatusException, match="61"):  # these two are not wrapped
        hef.get_input_vstream_infos("other")


@pytest.mark.parametrize("arch", [1, 2, 3, 103])
@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_every_header_version_is_read(load, hefs, arch, version):
    hef = load().HEF(hefs.encoder(arch=arch, version=version))
    assert hef.get_network_group_names() == [GROUP]
    assert [info.shape for info in hef.get_all_vstream_infos()] == [SHAPE, SHAPE]


@pytest.mark.parametrize("source", [Path("a.hef"), bytearray(b"x"), None, 3])
def test_a_hef_is_a_str_or_bytes(opened, source):
    hailo, device = opened()
    with pytest.raises(ValueError, match="str"):
        hailo.HEF(source)
    with pytest.raises(TypeError):
        device.create_infer_model(source)


def test_what_is_no_hef_is_told_by_version(load, hefs, tmp_path, configuration):
    """91 and 92 came with 4.21; before, all of it is 26."""
    whole = hefs.encoder()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    foreign = b"<!DOCTYPE html>" + whole
    old = load(hailort="4.20.0")
    for content in (bytes(flipped), whole[:-5], foreign, hefs.encoder(version=3)):
        with pytest.raises(old.py.HailoRTInvalidHEFException):
            old.HEF(content)


@pytest.mark.parametrize("version", ["4.23.0", "5.2.0"])
def test_what_is_no_hef_is_told_apart_since_4_21(load, hefs, tmp_path, version):
    hailo = load(hailort=version)
    whole = hefs.encoder()
    for content, status in (
        (whole[:-5], 91),
        (whole[:30], 91),
        (b"<!DOCTYPE html>" + whole, 92),
        (b"version https://git-lfs.github.com/spec/v1\n" * 3, 92),
    ):
        with pytest.raises(hailo.HailoRTException, match=f": {status} "):
            hailo.HEF(content)
    path = tmp_path / "broken.hef"
    for content in (b"", whole[:30]):  # a file ends where a buffer would be too short
        path.write_bytes(content)
        with pytest.raises(hailo.HailoRTException, match=": 14 "):
            hailo.HEF(str(path))
    with pytest.raises(hailo.HailoRTException, match=": 13 "):
        hailo.HEF(str(tmp_path / "missing.hef"))


def test_5_checks_only_the_protobuf_of_a_new_hef_before_the_chip_does(opened, hefs):
    hailo, device = opened(hailort="5.2.0", device={"architecture": "HAILO10H"})
    broken = hefs.encoder(arch=103, version=3)[:-1] + b"!"
    model = device.create_infer_model(broken)
    with pytest.raises(hailo.py.HailoRTFirmwareControlFailedException):
        model.configure()


@pytest.mark.parametrize(
    ("device", "arch", "version", "status"),
    [
        ("HAILO8", 1, "4.20.0", None),
        ("HAILO8", 2, "4.20.0", None),
        ("HAILO8", 3, "4.20.0", None),
        ("HAILO8L", 3, "4.20.0", None),
        ("HAILO8L", 1, "4.20.0", 26),
        ("HAILO8L", 1, "4.23.0", 93),
        ("HAILO8", 103, "4.23.0", 93),
        ("HAILO10H", 103, "4.23.0", 93),
        ("HAILO10H", 103, "5.2.0", None),
        ("HAILO10H", 1, "5.2.0", 93),
    ],
)
def test_a_hef_for_another_chip_is_refused_by_configure_and_not_before(opened, hefs, device, arch, version, status):
    hailo, vdevice = opened(hailort=version, device={"architecture": device})
    model = vdevice.create_infer_model(hefs.encoder(arch=arch))
    if status is None:
        with model.configure() as configured:
            assert configured.get_async_queue_size() == 4
        return
    kind = {26: "HailoRTInvalidHEFException", 93: "HailoRTHEFNotCompatibleWithDevice"}[status]
    with pytest.raises(getattr(hailo.py, kind)):
        model.configure()


# Devices


def test_a_device_tells_what_it_is(load):
    hailo = load(hailort="4.20.0", device={"architecture": "HAILO8L", "count": 2, "firmware": "4.19.0"})
    assert hailo.Device.scan() == ["0000:01:00.0", "0000:02:00.0"]
    with hailo.Device() as device:
        board = device.control.identify()
        assert (board.device_architecture.name, str(board.firmware_version)) == ("HAILO8L", "4.19.0 (release,app)")
        assert 0 < device.control.get_chip_temperature().ts0_temperature < 120
    with pytest.raises(hailo.native.HailoRTStatusException, match="2"):
        hailo.Device("0000:09:00.0")


def test_power_is_measured_where_the_board_can(load):
    hailo = load(device={"watts": 2.5})
    with hailo.VDevice() as vdevice, vdevice.get_physical_devices()[0] as device:
        kinds = (hailo.DvmTypes.AUTO, hailo.PowerMeasurementTypes.POWER)
        assert device.control.power_measurement(*kinds) == 2.5
        with pytest.raises(TypeError):
            device.control.power_measurement(*map(int, kinds))


@pytest.mark.parametrize(
    ("version", "architecture", "kind", "text"),
    [
        ("4.20.0", "HAILO8L", "HailoRTUnsupportedOpcodeException", "unsupported opcode"),
        ("5.2.0", "HAILO10H", "HailoRTException", ": 13 "),
    ],
)
def test_a_board_without_a_power_sensor(load, version, architecture, kind, text):
    hailo = load(hailort=version, device={"architecture": architecture})
    with hailo.Device() as device, pytest.raises(getattr(hailo.py, kind), match=text):
        device.control.power_measurement(hailo.DvmTypes.AUTO, hailo.PowerMeasurementTypes.POWER)


def test_the_control_of_a_device_that_nobody_holds_is_dead(load):
    hailo = load()
    with pytest.raises(hailo.py.HailoRTInvalidOperationException):
        hailo.Device().control.identify()


@pytest.mark.parametrize(("version", "status"), [("4.20.0", 64), ("4.23.0", 74), ("5.2.0", 74)])
def test_no_driver(load, version, status):
    """Until 4.22 it is told; later versions see no device."""
    hailo = load(hailort=version, device={"driver": None})
    with pytest.raises(hailo.HailoRTException, match=f": {status} "):
        hailo.VDevice()
    if status == 64:
        with pytest.raises(hailo.native.HailoRTStatusException, match="64"):
            hailo.Device.scan()
    else:
        assert hailo.Device.scan() == []


def test_no_device(load):
    hailo = load(device={"count": 0})
    with pytest.raises(hailo.HailoRTException, match=": 74 "):
        hailo.VDevice()
    with pytest.raises(hailo.HailoRTException):
        hailo.Device()


def test_a_driver_of_another_version(load):
    hailo = load(hailort="4.23.0", device={"driver": "4.22.0"})
    assert hailo.Device.scan() != []
    with pytest.raises(hailo.HailoRTException, match=": 76 "):
        hailo.VDevice()
    with pytest.raises(hailo.native.HailoRTStatusException, match="76"):
        hailo.Device()


def test_a_device_is_open_once(load):
    """Any free device: 74. A device by name: 73. Looking at it works all the same."""
    hailo = load()
    with hailo.VDevice() as first:
        assert first.get_physical_devices_ids() == ["0000:01:00.0"]
        assert first.get_physical_devices()[0].control.identify().board_name
        with pytest.raises(hailo.HailoRTException, match=": 74 "):
            hailo.VDevice()
        with pytest.raises(hailo.HailoRTException, match=": 73 "):
            hailo.VDevice(device_ids=["0000:01:00.0"])
    hailo.VDevice().release()
    with pytest.raises(hailo.py.HailoRTInvalidArgumentException):
        hailo.VDevice(device_ids=["0000:09:00.0"])


def test_a_second_device_is_taken_if_the_first_is_in_use(load):
    hailo = load(device={"count": 2})
    with hailo.VDevice(), hailo.VDevice() as second:
        assert second.get_physical_devices_ids() == ["0000:02:00.0"]


HOLD = """
import sys
import hailo_platform as hailo
params = hailo.VDevice.create_params()
for setting in sys.argv[1:]:
    exec(setting)
with hailo.VDevice(params):
    print("open", flush=True)
    sys.stdin.readline()
"""
SHARED = ("params.group_id = 'SHARED'",)
SERVICE = (
    *SHARED,
    "params.multi_process_service = True",
    "params.scheduling_algorithm = hailo.HailoSchedulingAlgorithm.ROUND_ROBIN",
)


def shared_params(hailo, group="SHARED", service=False, scheduled=True):
    params = hailo.VDevice.create_params()
    params.group_id, params.multi_process_service = group, service
    if scheduled:
        params.scheduling_algorithm = hailo.HailoSchedulingAlgorithm.ROUND_ROBIN
    return params


def test_another_process_holds_the_device_until_it_ends(load):
    hailo = load()
    with python(HOLD) as holder:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(hailo.HailoRTException, match=": 74 "):
            hailo.VDevice()
        holder.kill()
    hailo.VDevice().release()


def test_a_group_shares_within_a_process_and_not_between_two(load):
    hailo = load()
    with hailo.VDevice(shared_params(hailo)), hailo.VDevice(shared_params(hailo)) as second:
        assert second.get_physical_devices_ids() == ["0000:01:00.0"]
        with pytest.raises(hailo.HailoRTException, match=": 74 "):
            hailo.VDevice(shared_params(hailo, "OTHER"))
        others = shared_params(hailo)
        others.device_ids = ["0000:09:00.0"]
        with pytest.raises(hailo.py.HailoRTInvalidOperationException):
            hailo.VDevice(others)
    with python(HOLD, *SHARED) as holder:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(hailo.HailoRTException, match=": 74 "):
            hailo.VDevice(shared_params(hailo))
        holder.communicate("\n")


def test_the_service_of_4_shares_between_processes(load, configuration):
    hailo = load(hailort="4.20.0")
    with pytest.raises(hailo.HailoRTException, match=": 77 "):  # it does not run
        hailo.VDevice(shared_params(hailo, service=True))
    configuration(hailort="4.20.0", service=True)
    with pytest.raises(hailo.py.HailoRTInvalidArgumentException):  # it schedules, or nothing
        hailo.VDevice(shared_params(hailo, service=True, scheduled=False))
    with python(HOLD, *SERVICE) as holder:
        assert holder.stdout.readline() == "open\n"
        hailo.VDevice(shared_params(hailo, service=True)).release()
        with pytest.raises(hailo.HailoRTException, match=": 74 "):
            hailo.VDevice(shared_params(hailo, "OTHER", service=True))
        with pytest.raises(hailo.HailoRTException, match=": 74 "):
            hailo.VDevice(shared_params(hailo, "UNIQUE", service=True))
        holder.communicate("\n")


def test_hailo10h_shares_by_its_group_and_refuses_the_service(load):
    hailo = load(hailort="5.2.0", device={"architecture": "HAILO10H"}, service=True)
    with python(HOLD, *SHARED) as holder:
        assert holder.stdout.readline() == "open\n"
        hailo.VDevice(shared_params(hailo)).release()
        with pytest.raises(hailo.py.HailoRTInvalidOperationException):
            hailo.VDevice(shared_params(hailo, service=True))
        with pytest.raises(hailo.HailoRTException, match=": 74 "):
            hailo.VDevice()
        holder.communicate("\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scheduling_algorithm", 1),
        ("group_id", None),
        ("multi_process_service", "yes"),
        ("device_count", -1),
        ("device_ids", "0000:01:00.0"),
    ],
)
def test_parameters_are_typed(load, name, value):
    with pytest.raises(TypeError):
        setattr(load().VDevice.create_params(), name, value)


@pytest.mark.parametrize(("version", "default"), [("4.20.0", 0), ("4.23.0", 0), ("5.2.0", 1)])
def test_the_scheduler_is_off_by_default_before_5(load, hefs, version, default):
    hailo = load(hailort=version)
    assert hailo.VDevice.create_params().scheduling_algorithm == default
    # The argument device_ids makes parameters of its own.
    with hailo.VDevice(shared_params(hailo), device_ids=["0000:01:00.0"]) as device:
        configured = device.create_infer_model(hefs.encoder()).configure()
        with configured:
            if default:
                configured.set_scheduler_priority(1)
            else:
                configured.activate()


# A model's streams


def test_streams_are_found_by_name_or_alone(opened, hefs):
    hailo, device = opened()
    model = device.create_infer_model(hefs.decoder())
    assert model.input_names == ["toy_decoder/input_layer1", "toy_decoder/input_layer2"]
    assert model.output_names == ["toy_decoder/conv9", "toy_decoder/conv2"]
    assert [stream.name for stream in model.outputs] == model.output_names
    assert model.input("toy_decoder/input_layer2").shape == [4, 1, FEATURES]
    with model.configure() as configured:
        bindings = configured.create_bindings()
        for owner in (model, bindings):
            for find in (owner.input, owner.output):
                with pytest.raises(hailo.py.HailoRTNotFoundException):
                    find("conv9")
                with pytest.raises(hailo.py.HailoRTInvalidOperationException):  # several: the name is needed
                    find()
        with pytest.raises(hailo.py.HailoRTNotFoundException):
            configured.create_bindings({"input_layer1": np.zeros(SHAPE, np.uint16)})
    single = device.create_infer_model(hefs.encoder())
    assert single.input().name == single.inputs[0].name
    assert single.hef.get_network_group_names() == [GROUP]
    with pytest.raises(hailo.py.HailoRTNotFoundException):
        device.create_infer_model(hefs.encoder(), "other")


def test_the_format_is_the_chips_until_it_is_set(opened, hefs):
    hailo, device = opened()
    model = device.create_infer_model(hefs.encoder(bits=16))
    assert model.output().format.type == hailo.FormatType.UINT16
    model.output().format.type = hailo.FormatType.UINT8  # a copy
    assert model.output().format.type == hailo.FormatType.UINT16
    model.output().set_format_type(hailo.FormatType.FLOAT32)
    assert model.output().format.type == hailo.FormatType.FLOAT32
    for wrong in ("FLOAT32", 3, np.float32):
        with pytest.raises(TypeError):
            model.output().set_format_type(wrong)


@pytest.mark.parametrize(
    ("bits", "side", "kind", "works"),
    [
        (8, "input", "UINT8", True),
        (8, "input", "UINT16", False),
        (8, "output", "UINT16", True),
        (8, "output", "FLOAT32", True),
        (16, "input", "UINT8", True),
        (16, "output", "UINT8", False),
        (16, "output", "AUTO", True),
    ],
)
def test_8_bits_become_16_and_not_back(opened, hefs, bits, side, kind, works):
    hailo, device = opened()
    model = device.create_infer_model(hefs.encoder(bits=bits))
    getattr(model, side)().set_format_type(hailo.FormatType[kind])
    if not works:
        with pytest.raises(hailo.py.HailoRTInvalidArgumentException):
            model.configure()
        return
    with model.configure() as configured:
        dtypes = {"input": np.dtype(f"u{bits // 8}"), "output": np.dtype(f"u{bits // 8}")}
        if kind != "AUTO":
            dtypes[side] = np.dtype(kind.lower())
        bindings, _, y = bind(configured, dtypes["input"], dtypes["output"])
        configured.run([bindings], 10_000)
        # 7 -> (7 - 3) * 0.5 = 2; the graph doubles it: 4, which is 11 on the chip.
        np.testing.assert_array_equal(y, 4.0 if kind == "FLOAT32" else 11)


def test_the_format_is_taken_when_the_model_is_configured(opened, hefs):
    hailo, device = opened()
    model = device.create_infer_model(hefs.encoder())
    with model.configure() as configured:
        model.output().set_format_type(hailo.FormatType.FLOAT32)
        bindings, _, y = bind(configured)
        configured.run([bindings], 10_000)
        assert set(y.ravel()) == {11}


def test_float_inputs_are_clipped_to_the_calibrated_range_and_rounded_to_even(opened, hefs):
    hailo, device = opened()
    model = device.create_infer_model(hefs.encoder(scale=1.0, zero_point=100.0))
    model.input().set_format_type(hailo.FormatType.FLOAT32)
    with model.configure() as configured:
        bindings, x, y = bind(configured, np.float32)
        x.reshape(-1)[:6] = 0.5, 1.5, -0.5, -1.5, 1e9, -1e9
        x.reshape(-1)[6:] = 0
        configured.run([bindings], 10_000)
        assert y.reshape(-1)[:7].tolist() == [100, 104, 100, 96, 255, 0, 100]


def test_dtype_and_shape_are_never_looked_at(opened, hefs):
    """float64 of half the values has the right size, and its bytes are taken for float32."""
    hailo, device = opened()
    model = device.create_infer_model(hefs.encoder(scale=1.0, zero_point=100.0))
    model.input().set_format_type(hailo.FormatType.FLOAT32)
    model.output().set_format_type(hailo.FormatType.FLOAT32)
    with model.configure() as configured:
        x, y = np.full((FEATURES // 2, WIDTH), 1.0), np.zeros(SHAPE, np.float32)
        bindings = configured.create_bindings({model.input().name: x}, {model.output().name: y})
        configured.run([bindings], 10_000)
        np.testing.assert_array_equal(y.reshape(-1)[:4], [0, 4, 0, 4])  # 1.0 is 0x3FF0000000000000: 0.0 and 1.875


def test_a_dead_output_is_saturated(opened, hefs):
    """What a zero point of a 16-bit output does on an 8-bit stream."""
    _, device = opened()
    with device.create_infer_model(hefs.encoder(zero_point=20000.0)).configure() as configured:
        bindings, _, y = bind(configured)
        configured.run([bindings], 10_000)
        assert len(set(y.ravel())) == 1


# Buffers


def test_a_buffer_is_contiguous_and_writable(opened, hefs):
    hailo, device = opened()
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        stream = configured.create_bindings().input()
        assert stream.get_buffer() is None
        with pytest.raises(hailo.HailoRTException, match="C_CONTIGUOUS"):
            stream.set_buffer(np.zeros((1, WIDTH, FEATURES * 2), np.uint8)[:, :, ::2])
        frozen = np.zeros(SHAPE, np.uint8)
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="not writeable"):
            stream.set_buffer(frozen)
        with pytest.raises(AttributeError):
            stream.set_buffer([0])
        stream.set_buffer(np.zeros(1, np.uint8))  # the size counts when it is run


def test_a_buffer_of_the_wrong_size_ends_the_model(opened, hefs):
    hailo, device = opened()
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        good, _, _ = bind(configured)
        bad, _, _ = bind(configured, out_dtype=np.float32)
        with pytest.raises(hailo.py.HailoRTInvalidOperationException):
            configured.run_async([bad])
        with pytest.raises(hailo.py.HailoRTStreamAborted):
            configured.run_async([good])


def test_a_missing_input_ends_the_model_and_a_missing_output_does_not(opened, hefs):
    hailo, device = opened()
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        good, x, y = bind(configured)
        bindings = configured.create_bindings()
        bindings.input().set_buffer(x)
        with pytest.raises(hailo.py.HailoRTInvalidOperationException):
            configured.run([bindings], 1000)
        configured.run([good], 10_000)
        bindings = configured.create_bindings()
        bindings.output().set_buffer(y)
        with pytest.raises(hailo.py.HailoRTNotFoundException):
            configured.run([bindings], 1000)
        with pytest.raises(hailo.py.HailoRTStreamAborted):
            configured.run([good], 1000)


# Launching


def test_outputs_are_written_by_another_thread_when_the_job_ends(opened, hefs):
    _, device = opened(latency=0.2)
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, _, y = bind(configured)
        called = []
        job = configured.run_async(
            [bindings], callback=lambda completion_info: called.append((completion_info, threading.get_ident()))
        )
        assert set(y.ravel()) == {99}
        job.wait(10_000)
        assert set(y.ravel()) == {11}
        (info, thread) = called[0]
        assert info.exception is None
        assert thread != threading.get_ident()
        job.wait(0)  # once more


def test_waiting_too_short_is_a_timeout_and_the_job_goes_on(opened, hefs):
    hailo, device = opened(latency=0.3)
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, _, y = bind(configured)
        job = configured.run_async([bindings])
        with pytest.raises(hailo.py.HailoRTTimeout):
            job.wait(10)
        job.wait(10_000)
        assert set(y.ravel()) == {11}
        with pytest.raises(TypeError):
            job.wait(None)


def test_more_jobs_than_the_queue_holds_end_the_model(opened, hefs):
    hailo, device = opened(latency=0.3, device={"queue_size": 2})
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        assert configured.get_async_queue_size() == 2
        many = [bind(configured)[0] for _ in range(3)]
        with pytest.raises(hailo.py.HailoRTTimeout):
            configured.wait_for_async_ready(10, frames_count=3)
        jobs = [configured.run_async([bindings]) for bindings in many[:2]]
        with pytest.raises(hailo.py.HailoRTTimeout):
            configured.wait_for_async_ready(10)
        configured.wait_for_async_ready(10_000)
        jobs += [configured.run_async([many[2]])]
        for job in jobs:
            job.wait(10_000)
        for bindings in many[:2]:
            configured.run_async([bindings])
        with pytest.raises(hailo.HailoRTException, match=": 82 "):
            configured.run_async([many[2]])
        with pytest.raises(hailo.py.HailoRTStreamAborted):
            configured.run_async([many[0]])


def test_a_batch_widens_the_queue_and_is_one_job(opened, hefs):
    _, device = opened(device={"queue_size": 2})
    model = device.create_infer_model(hefs.encoder())
    for wrong in (-1, 65536, 1.0):
        with pytest.raises(TypeError):
            model.set_batch_size(wrong)
    model.set_batch_size(4)
    with model.configure() as configured:
        assert configured.get_async_queue_size() == 8
        frames = [bind(configured, fill=3 + index) for index in range(4)]
        configured.run([bindings for bindings, _, _ in frames], 10_000)
        assert [set(y.ravel()) for _, _, y in frames] == [{3}, {5}, {7}, {9}]


def test_bindings_under_way_may_not_be_launched_again(opened, hefs):
    _, device = opened(latency=0.2)
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, x, _ = bind(configured)
        job = configured.run_async([bindings])
        with pytest.raises(AssertionError, match="job in flight"):
            configured.run_async([bindings])
        other = configured.create_bindings()
        other.input().set_buffer(x)  # reading it twice is fine
        other.output().set_buffer(np.zeros(SHAPE, np.uint8))
        configured.run_async([other]).wait(10_000)
        job.wait(10_000)
        configured.run([bindings], 10_000)


def test_an_array_is_not_input_and_output_of_one_job(opened, hefs):
    _, device = opened()
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, x, _ = bind(configured)
        bindings.output().set_buffer(x)
        with pytest.raises(AssertionError, match="in use by"):
            configured.run_async([bindings])


def test_new_buffers_in_bindings_under_way_are_for_the_next_job(opened, hefs):
    _, device = opened(latency=0.1)
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, _, first = bind(configured)
        job = configured.run_async([bindings])
        second = np.zeros(SHAPE, np.uint8)
        bindings.output().set_buffer(second)
        job.wait(10_000)
        assert (set(first.ravel()), set(second.ravel())) == ({11}, {0})


def test_an_input_written_while_the_device_reads_it_is_noticed(opened, hefs):
    _, device = opened(latency=0.2)
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, x, _ = bind(configured)
        job = configured.run_async([bindings])
        x[:] = 0
        with pytest.raises(AssertionError, match="was written while"):
            job.wait(10_000)


def test_an_output_still_being_written_is_no_input(opened, hefs):
    _, device = opened(latency=0.2)
    encoder = device.create_infer_model(hefs.encoder(bits=16))
    decoder = device.create_infer_model(hefs.decoder())
    with encoder.configure() as first, decoder.configure() as second:
        bindings, _, y = bind(first, np.uint16, np.uint16)
        buffers = {"toy_decoder/input_layer1": y, "toy_decoder/input_layer2": np.zeros((4, 1, FEATURES), np.uint16)}
        outputs = {"toy_decoder/conv9": np.zeros(SHAPE, np.uint16), "toy_decoder/conv2": np.zeros(32, np.uint16)}
        job = first.run_async([bindings])
        with pytest.raises(AssertionError, match="still being written"):
            second.run_async([second.create_bindings(buffers, outputs)])
        job.wait(10_000)


def test_both_models_take_turns(opened, hefs):
    """The second model's job does not wait for all of the first one's."""
    _, device = opened(latency=0.05)
    encoder = device.create_infer_model(hefs.encoder())
    decoder = device.create_infer_model(hefs.decoder())
    ended = []
    with encoder.configure() as first, decoder.configure() as second:
        jobs = [
            first.run_async([bind(first)[0]], callback=lambda completion_info: ended.append("encoder"))
            for _ in range(4)
        ]
        tokens, out = np.full((4, 1, FEATURES), 30100, np.uint16), np.zeros((4, 1, FEATURES), np.uint16)
        bindings = second.create_bindings(
            {"toy_decoder/input_layer1": np.zeros(SHAPE, np.uint16), "toy_decoder/input_layer2": tokens},
            {"toy_decoder/conv9": np.zeros(SHAPE, np.uint16), "toy_decoder/conv2": out},
        )
        jobs.append(second.run_async([bindings], callback=lambda completion_info: ended.append("decoder")))
        for job in jobs:
            job.wait(10_000)
        assert set(out.ravel()) == {29900}
    assert ended.index("decoder") <= 2


def test_a_callback_that_raises_would_end_the_process(opened, hefs):
    _, device = opened()
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, _, _ = bind(configured)
        job = configured.run_async([bindings], callback=lambda info: None)  # the keyword is completion_info
        with pytest.raises(AssertionError, match="callback of run_async raised TypeError"):
            job.wait(10_000)


# Without a scheduler


def test_without_a_scheduler_a_model_that_is_not_active_fails_silently(opened, hefs):
    """wait() and run() return as if all was well; the outputs are zeros and only the callback is told."""
    hailo, device = opened(scheduled=False)
    first = device.create_infer_model(hefs.encoder()).configure()
    second = device.create_infer_model(hefs.encoder()).configure()
    with first, second:
        bindings, _, y = bind(first)
        told = []
        first.run_async([bindings], callback=lambda completion_info: told.append(completion_info.exception)).wait(9999)
        assert ": 72 " in str(told[0])
        assert set(y.ravel()) == {0}
        first.activate()
        with pytest.raises(hailo.py.HailoRTInvalidOperationException):
            second.activate()
        first.run([bindings], 10_000)
        assert set(y.ravel()) == {11}
        first.deactivate()
        second.activate()
        for setting in (second.set_scheduler_timeout, second.set_scheduler_threshold, second.set_scheduler_priority):
            with pytest.raises(hailo.py.HailoRTInvalidOperationException):
                setting(1)


def test_with_a_scheduler_nothing_is_activated_by_hand(opened, hefs):
    hailo, device = opened()
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        with pytest.raises(hailo.py.HailoRTInvalidOperationException):
            configured.activate()
        configured.set_scheduler_timeout(100)
        configured.set_scheduler_threshold(2)
        configured.set_scheduler_priority(31)
        with pytest.raises(hailo.py.HailoRTInvalidArgumentException):
            configured.set_scheduler_priority(32)
        with pytest.raises(TypeError):
            configured.set_scheduler_priority(256)


# The end


def test_shutdown_aborts_what_is_under_way(opened, hefs):
    hailo, device = opened(latency=0.2)
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        told, jobs = [], []
        for _ in range(3):
            bindings, _, y = bind(configured)
            jobs.append(configured.run_async([bindings], callback=lambda completion_info: told.append(completion_info)))
        configured.shutdown()
        for job in jobs:
            job.wait(1000)
        assert {type(info.exception) for info in told} == {hailo.py.HailoRTStreamAborted}
        assert set(y.ravel()) == {0}
        with pytest.raises(hailo.py.HailoRTStreamAborted):
            configured.run_async([bindings])


def test_after_its_context_a_model_is_gone(opened, hefs):
    _, device = opened(latency=0.2)
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, _, _ = bind(configured)
        job = configured.run_async([bindings])
    job.wait(1000)
    for call in (configured.create_bindings, configured.wait_for_async_ready, configured.shutdown):
        with pytest.raises(AttributeError, match="NoneType"):
            call()
    with pytest.raises(AttributeError, match="NoneType"):
        configured.run_async([bindings])


def test_after_release_a_vdevice_is_gone(opened, hefs):
    _, device = opened()
    model = device.create_infer_model(hefs.encoder())
    device.release()
    device.release()
    with pytest.raises(AttributeError, match="NoneType"):
        device.create_infer_model(hefs.encoder())
    with pytest.raises(AttributeError, match="NoneType"):
        device.get_physical_devices_ids()
    with pytest.raises(AssertionError, match="after its VDevice was released"):
        model.configure()


def test_a_vdevice_outlives_its_models(opened, hefs):
    """HailoRT keeps bare references from a model to its device."""
    hailo, device = opened()
    configured = device.create_infer_model(hefs.encoder()).configure()
    with pytest.raises(AssertionError, match="still alive"):
        device.release()
    with pytest.raises(AssertionError, match="after its VDevice was released"):
        configured.create_bindings()
    hailo.VDevice().release()  # the device is free all the same


def test_on_hailo10h_the_server_notices_a_released_vdevice(opened, hefs):
    hailo, device = opened(hailort="5.2.0", device={"architecture": "HAILO10H"})
    model = device.create_infer_model(hefs.encoder(arch=103))
    device.release()
    with pytest.raises(hailo.HailoRTException, match=": 8 "):
        model.configure()


def test_a_collected_vdevice_is_released(load):
    hailo = load()
    device = hailo.VDevice()
    del device
    hailo.VDevice().release()


def test_a_forked_process_cannot_use_the_device(opened, hefs):
    hailo, device = opened()
    content = hefs.encoder()
    with device.create_infer_model(content).configure() as configured:
        bindings, _, _ = bind(configured)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # a child that hangs ends
            caught = []
            for call in (lambda: device.create_infer_model(content), lambda: configured.run_async([bindings])):
                try:
                    call()
                except BaseException as error:
                    caught.append(type(error).__name__)
            device.release()  # gives back only the child's share
            os.write(writer, pickle.dumps(caught))
            os._exit(0)
        os.waitpid(child, 0)
        assert pickle.loads(os.read(reader, 1000)) == ["HailoRTException", "AssertionError"]
        with pytest.raises(hailo.HailoRTException, match=": 74 "):
            hailo.VDevice()
        configured.run([bindings], 10_000)


def test_a_forked_child_does_not_keep_the_device(load):
    hailo = load()
    device = hailo.VDevice()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        signal.pause()
    device.release()
    hailo.VDevice().release()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


# Faults


@pytest.mark.parametrize("status", [64, 73, 74, 76, 85, 86])
def test_any_status_can_be_asked_for(load, status):
    hailo = load(faults={"VDevice.create": {"status": status}})
    with pytest.raises(hailo.HailoRTException, match=f": {status} "):
        hailo.VDevice()


def test_a_fault_can_wait_for_its_call(opened, hefs, configuration):
    hailo, device = opened()
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, _, _ = bind(configured)
        configured.run([bindings], 10_000)
        configuration(faults={"ConfiguredInferModel.run_async": {"status": 8, "at": 3}})
        for _ in range(2):
            configured.run([bindings], 10_000)
        with pytest.raises(hailo.HailoRTException, match=": 8 "):
            configured.run([bindings], 10_000)
        with pytest.raises(hailo.py.HailoRTStreamAborted):  # a launch that fails ends the model
            configured.run([bindings], 10_000)


def test_a_fault_can_raise_and_be_late(load):
    hailo = load(faults={"Device.scan": {"raise": "no luck", "sleep": 0.1}})
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="no luck"):
        hailo.Device.scan()
    assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize(
    ("point", "letting_go"),
    [
        ("VDevice.create", False),
        ("InferModel.configure", False),
        ("ConfiguredInferModel.wait_for_async_ready", True),
        ("ConfiguredInferModel.run_async", True),
        ("AsyncInferJob.wait", True),
        ("ConfiguredInferModel.shutdown", False),
        ("ConfiguredInferModel.__exit__", True),
        ("VDevice.release", False),
    ],
)
def test_only_some_calls_let_other_threads_run(load, opened, hefs, point, letting_go):
    load()  # an import takes long, too
    ticks, ended = [], threading.Event()

    def tick():
        while not ended.wait(0.01):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        _, device = opened(faults={point: {"sleep": 0.8}})
        with device.create_infer_model(hefs.encoder()).configure() as configured:
            bindings, _, _ = bind(configured)
            configured.wait_for_async_ready(1000)
            configured.run_async([bindings]).wait(1000)
            configured.shutdown()
        device.release()
    finally:
        ended.set()
        thread.join()
    longest = max(after - before for before, after in itertools.pairwise(ticks))
    assert (longest < 0.6) == letting_go


@pytest.mark.parametrize("point", ["ConfiguredInferModel.run_async", "AsyncInferJob.wait"])
def test_a_stalled_job_times_out_and_leaves_with_its_model(opened, hefs, point):
    hailo, device = opened(faults={point: {"stall": True}})
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, _, y = bind(configured)
        told = []
        job = configured.run_async([bindings], callback=lambda completion_info: told.append(completion_info))
        start = time.monotonic()
        for _ in range(2):
            with pytest.raises(hailo.py.HailoRTTimeout):
                job.wait(100)
        assert 0.2 <= time.monotonic() - start < 5
        assert (told, set(y.ravel())) == ([], {99})
        with pytest.raises(hailo.py.HailoRTTimeout):
            configured.wait_for_async_ready(50, frames_count=4)
    assert type(told[0].exception) is hailo.py.HailoRTStreamAborted


def test_one_wait_can_stall(opened, hefs):
    hailo, device = opened(faults={"AsyncInferJob.wait": {"stall": True, "at": 2}})
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, _, _ = bind(configured)
        configured.run([bindings], 10_000)
        with pytest.raises(hailo.py.HailoRTTimeout):
            configured.run([bindings], 100)
        configured.wait_for_async_ready(10_000, frames_count=4)
        configured.run([bindings], 10_000)


def test_the_failure_of_a_frame_shows_only_in_the_callback(opened, hefs):
    _, device = opened(faults={"AsyncInferJob.completion": {"status": 8, "at": 1}})
    with device.create_infer_model(hefs.encoder()).configure() as configured:
        bindings, _, y = bind(configured)
        told = []
        job = configured.run_async([bindings], callback=lambda completion_info: told.append(completion_info))
        job.wait(10_000)
        assert ": 8 " in str(told[0].exception)
        assert set(y.ravel()) == {0}
        configured.run([bindings], 10_000)
        assert set(y.ravel()) == {11}


def test_outputs_can_be_spoilt(opened, hefs, configuration):
    hailo, device = opened(output="nan")
    model = device.create_infer_model(hefs.encoder())
    model.output().set_format_type(hailo.FormatType.FLOAT32)
    with model.configure() as configured:
        bindings, _, y = bind(configured, out_dtype=np.float32)
        configured.run([bindings], 10_000)
        assert np.isnan(y).all()
        configuration(output="garbage")
        configured.run([bindings], 10_000)
        assert len(set(y.ravel())) > 4
        configuration()
        configured.run([bindings], 10_000)
        assert set(y.ravel()) == {4.0}


def test_a_hef_without_a_graph_is_a_mistake_of_the_test(opened, hefs):
    _, device = opened()
    with pytest.raises(AssertionError, match="holds no graph"):
        device.create_infer_model(hefs.encoder(payload=b"")).configure()


def test_the_toy_graphs_are_valid():
    for model in (encoder_graph(), decoder_graph()):
        onnx.checker.check_model(onnx.load_from_string(model))
