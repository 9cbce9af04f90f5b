"""Writes synthetic HEFs: a valid header and digest of every version, and a protobuf by the public hef.proto.

Where a real HEF holds the configuration of the chip, a synthetic one holds a payload: the ONNX graph that the fake
device runs (`graph_payload`). Nothing here reads what a HEF declares; that is whisper_runtime.hef.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xxhash

MAGIC = b"\x01HEF"
ARCHITECTURES = {"hailo8": 1, "hailo8r": 2, "hailo8l": 3, "hailo10h": 103}
HEADER_SIZES = {0: 32, 1: 28, 2: 44, 3: 56}
PARTIAL_LAYOUT = {3}  # hw_arch whose contexts are stored once for each half of the chip
NET_FLOW = 13  # extension: the network is stored as ops
BOUNDARY, INTERMEDIATE = 0, 1
HOST_TO_DEVICE, DEVICE_TO_HOST = 0, 1
ALIGNMENT = 4096  # of the configuration section in version 3
GRAPH_MAGIC = b"FAKEGRAPH\n"


@dataclass(frozen=True)
class FakeStream:
    """One input or output of the device: shape is (height, width, features), without a batch."""

    name: str
    shape: tuple[int, int, int]
    bytes_per_value: int
    zero_point: float
    scale: float
    original_names: tuple[str, ...]
    onnx_name: str = ""


def build_hef(
    *,
    hw_arch: int,
    network_group: str,
    inputs: Sequence[FakeStream],
    outputs: Sequence[FakeStream],
    payload: bytes = b"",
    version: int = 3,
    sdk_version: str = "3.33.0",
    timestamp_ms: int = 0,
    sorted_outputs: Sequence[str] | None = None,
) -> bytes:
    """Return the bytes of a HEF. Zero point and scale are stored as float32, as in a real one."""
    names = [stream.name for stream in outputs] if sorted_outputs is None else sorted_outputs
    group = group_proto(network_group, inputs, outputs, names, partial=hw_arch in PARTIAL_LAYOUT)
    return seal(hef_proto(hw_arch, [group], sdk_version, timestamp_ms), payload, version)


def seal(proto: bytes, payload: bytes = b"", version: int = 3) -> bytes:
    """Return `proto` and `payload` behind a header of `version` with the right sizes and digests."""
    if version == 0:
        if payload:
            raise ValueError("a HEF of header version 0 has no section for a payload")
        distinct = struct.pack(">I", 0) + hashlib.md5(proto).digest()
        return MAGIC + struct.pack(">II", 0, len(proto)) + distinct + proto
    padding = -(HEADER_SIZES[3] + len(proto)) % ALIGNMENT if version == 3 else 0
    rest = proto + bytes(padding) + payload
    if version == 1:
        distinct = struct.pack(">IQI", zlib.crc32(rest), len(payload), 0)
    elif version == 2:
        distinct = struct.pack(">QQQQ", xxhash.xxh3_64_intdigest(rest), len(payload), 0, 0)
    elif version == 3:
        # Only the 5.x compilers store the digest of the protobuf alone; it is filled here, as HailoRT then checks it.
        digests = xxhash.xxh3_64_intdigest(rest), xxhash.xxh3_64_intdigest(proto)
        distinct = struct.pack(">QQIQQQ", digests[0], padding + len(payload), padding, 0, digests[1], 0)
    else:
        raise ValueError(f"no header version {version}")
    return MAGIC + struct.pack(">II", version, len(proto)) + distinct + rest


def read_payload(hef: bytes) -> bytes:
    """Return the payload that `build_hef` stored; the HEF is taken to be valid."""
    version, proto_size = struct.unpack_from(">II", hef, 4)
    padding = struct.unpack_from(">I", hef, 28)[0] if version == 3 else 0
    return hef[HEADER_SIZES[version] + proto_size + padding :]


def graph_payload(onnx_model: bytes, streams: Mapping[str, str]) -> bytes:
    """Return a payload of the graph that the fake device runs and stream name -> name of the graph's tensor."""
    head = json.dumps(dict(streams)).encode()
    return GRAPH_MAGIC + struct.pack(">I", len(head)) + head + onnx_model


def read_graph_payload(payload: bytes) -> tuple[bytes, dict[str, str]]:
    """Undo `graph_payload`. Raises ValueError for a payload that holds no graph."""
    if not payload.startswith(GRAPH_MAGIC):
        raise ValueError("the payload holds no graph: this HEF was not made by the fake compiler")
    start = len(GRAPH_MAGIC) + 4
    (size,) = struct.unpack_from(">I", payload, len(GRAPH_MAGIC))
    return payload[start + size :], json.loads(payload[start : start + size])


# The protobuf: every function returns the content of one message of hef.proto.


def hef_proto(
    hw_arch: int, groups: Sequence[bytes], sdk_version: str, timestamp_ms: int, net_flow: bool = False
) -> bytes:
    """ProtoHEFHef; `net_flow` declares that the networks are stored as ops."""
    header = message(1, integer(1, hw_arch) + integer(2, timestamp_ms) + text(3, sdk_version))
    extension = message(5, integer(1, NET_FLOW) + text(2, "HAILO_NET_FLOW")) if net_flow else b""
    return header + b"".join(message(2, group) for group in groups) + extension


def group_proto(
    name: str,
    inputs: Sequence[FakeStream],
    outputs: Sequence[FakeStream],
    sorted_outputs: Sequence[str],
    partial: bool = False,
    net_flow: bool = False,
) -> bytes:
    """ProtoHEFNetworkGroup in each of the four ways that compilers store one.

    `partial`: the contexts are there once for each layout on a part of the chip. `net_flow`: inside of an op.
    """
    metadata = message(1, text(1, name))
    order = b"".join(text(4, output) for output in sorted_outputs)
    # A core op has the same fields as the part of a network group that is older than ops.
    core_op = metadata + context_proto(inputs, outputs) + order + text(6, name)
    if partial:
        layouts = (message(7, message(1, core_op) + message(2, integer(1, bitmap))) for bitmap in (1, 2))
        core_op = metadata + order + text(6, name) + b"".join(layouts)
    if not net_flow:
        return core_op
    return metadata + order + text(6, name) + message(8, text(1, "core_op") + message(4, core_op)) + text(10, name)


def context_proto(inputs: Sequence[FakeStream], outputs: Sequence[FakeStream]) -> bytes:
    """Field `contexts` of a core op, of two contexts: the inputs with an edge between the two, and the outputs."""
    between = FakeStream("between", (1, 1, 1), 1, 0.0, 1.0, ())
    first = [edge_proto(stream, HOST_TO_DEVICE) for stream in inputs]
    first.append(edge_proto(between, DEVICE_TO_HOST, INTERMEDIATE))
    second = [edge_proto(between, HOST_TO_DEVICE, INTERMEDIATE)]
    second += [edge_proto(stream, DEVICE_TO_HOST) for stream in outputs]
    contexts = []
    for index, edges in enumerate((first, second)):
        metadata = text(1, f"context_{index}") + b"".join(message(2, edge) for edge in edges)
        contexts.append(message(3, integer(1, index) + message(3, metadata)))
    return b"".join(contexts)


def edge_proto(stream: FakeStream, direction: int, connection: int = BOUNDARY) -> bytes:
    """ProtoHEFEdgeLayer of type info."""
    return integer(1, direction) + integer(2, 0) + message(3, info_proto(stream)) + message(5, integer(3, connection))


def info_proto(stream: FakeStream) -> bytes:
    """ProtoHEFEdgeLayerInfo; features are padded to 8, as the chip stores it."""
    height, width, features = stream.shape
    base = integer(1, height) + integer(2, height) + integer(3, width) + integer(4, width)
    base += integer(5, features) + integer(6, features + -features % 8) + integer(12, stream.bytes_per_value)
    numeric = real(1, stream.zero_point) + real(2, stream.scale)
    names = b"".join(text(5, name) for name in stream.original_names)
    return text(1, stream.name) + message(2, base) + message(3, numeric) + names


# The wire format. As in proto3, a zero is not stored.


def varint(value: int) -> bytes:
    """A number of 7 bits a byte, lowest first."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def integer(field: int, value: int) -> bytes:
    """Field of an unsigned number or enum."""
    return varint(field << 3) + varint(value) if value else b""


def real(field: int, value: float) -> bytes:
    """Field of a float32."""
    return varint(field << 3 | 5) + struct.pack("<f", value) if value else b""


def message(field: int, content: bytes) -> bytes:
    """Field of a message or bytes."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def text(field: int, value: str) -> bytes:
    """Field of a string."""
    return message(field, value.encode())
