"""What the chip computes: the ONNX graph in the HEF's payload, between the quantised ends of its streams."""

import numpy as np
from hef_file import read_graph_payload, read_payload

from hailo_platform._fake import config, formats
from hailo_platform._fake.hef import Hef, NetworkGroup, StreamInfo


class Graph:
    """The graph of one configured model, run by one thread that does not spin."""

    def __init__(self, hef: Hef, group: NetworkGroup) -> None:
        import onnxruntime  # late: the real package imports without it

        try:
            model, tensors = read_graph_payload(read_payload(hef.content))
        except ValueError as error:
            raise AssertionError(f"the fake device cannot run the HEF of {group.name}: {error}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._group = group
        self._tensors = tensors
        self._ranks = {tensor.name: len(tensor.shape) for tensor in self._session.get_inputs()}

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The chip's numbers (height, width, features) of each input -> those of each output."""
        feeds = {}
        for stream in self._group.inputs:
            tensor = self._tensors[stream.name]
            values = formats.dequantise(stream, inputs[stream.name])
            feeds[tensor] = _to_tensor(stream, values, self._ranks[tensor])
        names = [self._tensors[stream.name] for stream in self._group.outputs]
        results = self._session.run(names, feeds)
        numbers = {}
        for stream, result in zip(self._group.outputs, results, strict=True):
            numbers[stream.name] = formats.quantise(stream, _from_tensor(stream, result))
        return numbers

    def spoil(self, outputs: dict[str, np.ndarray], kinds: dict[str, int]) -> None:
        """Replace what the device returned, if the configuration says so. `outputs` are in the user's format."""
        wish = config.load().get("output")
        generator = np.random.default_rng()
        for stream in self._group.outputs:
            values, user = outputs[stream.name], formats.expand(stream, kinds[stream.name])
            if wish == "nan":
                outputs[stream.name] = np.full_like(values, np.nan if user == formats.FLOAT32 else 0)
            elif wish == "garbage":
                top = 256**stream.bytes_per_value
                numbers = generator.integers(0, top, stream.shape).astype(formats.DTYPES[formats.native_type(stream)])
                outputs[stream.name] = formats.from_chip(stream, user, numbers)


def _to_tensor(stream: StreamInfo, values: np.ndarray, rank: int) -> np.ndarray:
    if rank == 4:  # (height, width, features) -> (1, features, height, width)
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None])
    if rank == 3 and stream.shape[0] == 1:
        return values
    raise AssertionError(f"{stream.name}: no layout for a tensor of rank {rank} and a stream {stream.shape}")


def _from_tensor(stream: StreamInfo, values: np.ndarray) -> np.ndarray:
    result = values[0].transpose(1, 2, 0) if values.ndim == 4 else values
    if result.shape != stream.shape:
        raise AssertionError(f"{stream.name}: the graph gives {values.shape}, the HEF says {stream.shape}")
    return result
