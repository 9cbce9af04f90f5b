"""The emulated hailo_platform is as strict as HailoRT about what the app uses, and offers no more."""

import importlib
import sys

import numpy as np
import pytest

from tests.integration.helpers import EMULATED
from tests.integration.toy_bundle import SECONDS, SEQUENCE, WIDTH


@pytest.fixture
def platform(monkeypatch):
    """The emulated package, imported for one test."""
    monkeypatch.syspath_prepend(str(EMULATED))
    yield importlib.import_module("hailo_platform")
    del sys.modules["hailo_platform"]


@pytest.fixture
def decoder(platform, toy_bundle):
    return str(toy_bundle() / "decoder.emulated.onnx")


def opened(platform):
    params = platform.VDevice.create_params()
    params.scheduling_algorithm = platform.HailoSchedulingAlgorithm.ROUND_ROBIN
    return platform.VDevice(params)


def floats(model):
    for stream in (*model.inputs, *model.outputs):
        stream.format_type = type(stream.format_type).FLOAT32
    return model


def test_it_says_what_it_is(platform, capsys):
    importlib.reload(platform)
    assert capsys.readouterr().err == platform.BANNER + "\n"
    assert "EMULATED" in platform.BANNER


def test_names_and_shapes_are_the_devices(platform, decoder):
    hef = platform.HEF(decoder)
    assert hef.get_network_group_names() == ["decoder"]
    shapes = {info.name: info.shape for info in hef.get_input_vstream_infos()}
    assert shapes == {
        "decoder/input_layer1": (1, 50 * SECONDS, WIDTH),
        "decoder/input_layer2": (SEQUENCE, 1, WIDTH),
    }
    assert [info.shape for info in hef.get_output_vstream_infos()] == [(1, SEQUENCE, 12966)] * 4
    assert all("conv" in name for name in hef.get_sorted_output_names())
    encoder = platform.HEF(decoder.replace("decoder", "encoder"))
    assert [info.shape for info in encoder.get_input_vstream_infos()] == [(1, 100 * SECONDS, 80)]


def test_a_hef_is_none_of_its_business(platform, decoder):
    with pytest.raises(platform.HailoRTException, match="only graphs of the emulator"):
        platform.HEF("model.hef")
    with pytest.raises(TypeError):
        platform.HEF(EMULATED)


def test_formats_names_and_buffers_are_checked(platform, decoder):
    with opened(platform) as device:
        model = device.create_infer_model(decoder)
        with pytest.raises(platform.HailoRTException, match="integers"):
            model.configure()
        with pytest.raises(platform.HailoRTException, match="not found"):
            model.input("decoder/input_layer9")
        with pytest.raises(platform.HailoRTException, match="a name is needed"):
            model.input()
        with floats(model).configure() as configured:
            bindings = configured.create_bindings()
            with pytest.raises(platform.HailoRTException, match="None bytes"):
                configured.run([bindings], 1000)
            with pytest.raises(platform.HailoRTException, match="C_CONTIGUOUS"):
                bindings.input("decoder/input_layer1").set_buffer(np.zeros((WIDTH, 50), np.float32).T)
            read_only = np.zeros(4)
            read_only.flags.writeable = False
            with pytest.raises(ValueError, match="writeable"):
                bindings.input("decoder/input_layer1").set_buffer(read_only)
            bindings.input("decoder/input_layer1").set_buffer(np.zeros((1, 50, WIDTH), np.float16))
            with pytest.raises(platform.HailoRTException, match="has 400 bytes, not 800"):
                configured.run([bindings], 1000)
        with pytest.raises(AttributeError):
            configured.create_bindings()


def test_one_device_with_a_scheduler_for_two_models(platform, decoder):
    with platform.VDevice() as device:
        with pytest.raises(platform.HailoRTException, match="in use"):
            platform.VDevice()
        floats(device.create_infer_model(decoder)).configure()
        with pytest.raises(platform.HailoRTException, match="scheduler"):
            floats(device.create_infer_model(decoder)).configure()
    with pytest.raises(platform.HailoRTException, match="released"):
        device.create_infer_model(decoder)
    params = platform.VDevice.create_params()
    params.multi_process_service = True
    with pytest.raises(platform.HailoRTException, match="not emulated"):
        platform.VDevice(params)


def test_there_is_no_microphone(monkeypatch):
    monkeypatch.syspath_prepend(str(EMULATED.parent / "stand_ins"))
    sounddevice = importlib.import_module("sounddevice")
    try:
        with pytest.raises(OSError, match="nothing can be recorded"):
            sounddevice.InputStream(samplerate=16000)
    finally:
        del sys.modules["sounddevice"]
