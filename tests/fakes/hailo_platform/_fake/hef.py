"""Reads a HEF: header, digest, and the parts of the protobuf that the package shows.

Sources: libhailort/src/hef/hef.cpp, hef_internal.hpp, core_op_metadata.cpp; libhailort/hef.proto.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from hailo_platform._fake import config, faults
from hailo_platform._fake.statuses import check, failure

MAGIC = b"\x01HEF"
COMMON_SIZE = 12
DISTINCT_SIZES = {0: 20, 1: 16, 2: 32, 3: 44}
MULTI_LAYOUT = (3,)  # HAILO8L: its contexts are in partial core ops
NET_FLOW_EXTENSION = 13
BOUNDARY = 0


@dataclass(frozen=True)
class StreamInfo:
    """What a HEF says of a stream. `shape` is (height, width, features)."""

    name: str
    network_group: str
    is_input: bool
    shape: tuple[int, int, int]
    bytes_per_value: int
    zero_point: float
    scale: float
    limits: tuple[float, float]
    original_names: tuple[str, ...]

    @property
    def values(self) -> int:
        """Number of values in a frame."""
        return self.shape[0] * self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class NetworkGroup:
    """Name, streams and the compiler's order of the outputs."""

    name: str
    inputs: tuple[StreamInfo, ...]
    outputs: tuple[StreamInfo, ...]
    sorted_outputs: tuple[str, ...]


@dataclass(frozen=True)
class Hef:
    """A parsed HEF. `whole` is False if only the protobuf's digest held: the chip refuses such a file."""

    content: bytes
    architecture: int
    groups: tuple[NetworkGroup, ...]
    whole: bool

    def group(self, name: str) -> NetworkGroup:
        """A network group by its name or its default network's; the first one for an empty name."""
        for group in self.groups:
            if name in ("", group.name, f"{group.name}/{group.name}"):
                return group
        raise failure("NOT_FOUND")


def read_file(path: str) -> Hef:
    """Read a HEF from a file. common/file_utils.cpp: what cannot be opened is 13, what ends too early 14."""
    faults.reach("HEF.create")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        # An ifstream opens a folder without complaint; its first read fails.
        raise failure("FILE_OPERATION_FAILURE" if Path(path).is_dir() else "OPEN_FILE_FAILURE") from error
    check(len(content) >= COMMON_SIZE, "FILE_OPERATION_FAILURE")
    (version,) = struct.unpack_from(">I", content, 4)
    check(len(content) >= COMMON_SIZE + DISTINCT_SIZES.get(version, 0), "FILE_OPERATION_FAILURE")
    return _parse(content)


def read_buffer(content: bytes) -> Hef:
    """Read a HEF from memory. Fewer bytes than a header are read beyond the end in some versions: refused here."""
    faults.reach("HEF.create")
    if len(content) < COMMON_SIZE + max(DISTINCT_SIZES.values()):
        raise failure(_corrupt())
    return _parse(content)


def _corrupt() -> str:
    return "HEF_FILE_CORRUPTED" if config.RELEASE >= (4, 21) else "INVALID_HEF"


def _unsupported() -> str:
    return "HEF_NOT_SUPPORTED" if config.RELEASE >= (4, 21) else "INVALID_HEF"


def _parse(content: bytes) -> Hef:
    version, proto_size = struct.unpack_from(">II", content, 4)
    # The version is looked at before the magic.
    newest = 3 if config.RELEASE >= (4, 21) else 2
    check(version <= newest, _unsupported())
    check(content[:4] == MAGIC, _unsupported())
    start = COMMON_SIZE + DISTINCT_SIZES[version]
    rest, distinct = content[start:], content[COMMON_SIZE:start]
    whole = True
    if version == 0:
        check(len(rest) == proto_size and distinct[4:] == hashlib.md5(rest).digest(), _corrupt())
    elif version == 1:
        crc, ccws = struct.unpack_from(">IQ", distinct)
        check(len(rest) == proto_size + ccws and crc == zlib.crc32(rest), _corrupt())
    elif version == 2:
        digest, ccws = struct.unpack_from(">QQ", distinct)
        check(len(rest) == proto_size + ccws and digest == xxhash.xxh3_64_intdigest(rest), _corrupt())
    else:
        digest, ccws, _, additional, proto_digest, _ = struct.unpack(">QQIQQQ", distinct)
        whole = len(rest) == proto_size + ccws + additional and digest == xxhash.xxh3_64_intdigest(rest)
        if config.RELEASE >= (5, 0) and proto_digest:  # then nothing else is checked before the chip loads it
            check(proto_digest == xxhash.xxh3_64_intdigest(rest[:proto_size]), _corrupt())
        else:
            check(whole, _corrupt())
    try:
        return _read_proto(content, rest[:proto_size], whole)
    except (ValueError, IndexError, KeyError, struct.error) as error:
        raise failure(_corrupt()) from error


def _read_proto(content: bytes, proto: bytes, whole: bool) -> Hef:
    message = _fields(proto)
    architecture = _last(_fields(_last(message, 1)), 1, 0)
    assert isinstance(architecture, int)
    extensions = [_last(_fields(item), 1, 0) for item in message.get(5, [])]
    groups = []
    for item in message[2]:
        group = _fields(item)
        core_op = _fields(_last(_fields(_last(group, 8)), 4)) if NET_FLOW_EXTENSION in extensions else group
        if architecture in MULTI_LAYOUT:
            core_op = _fields(_last(_fields(core_op[7][0]), 1))
        name, order = _last(_fields(_last(group, 1)), 1), group.get(4, [])
        groups.append(_read_group(name.decode(), core_op, tuple(value.decode() for value in order)))
    return Hef(content, architecture, tuple(groups), whole)


def _read_group(name: str, core_op: dict[int, list], order: tuple[str, ...]) -> NetworkGroup:
    streams = []
    for item in core_op.get(3, []):
        metadata = _fields(_last(_fields(item), 3))
        for edge in map(_fields, metadata.get(2, [])):
            connection = _last(_fields(_last(edge, 5, b"")), 3, 0)
            if connection == BOUNDARY and _last(edge, 2, 0) == 0:
                streams.append(_read_stream(name, is_input=_last(edge, 1, 0) == 0, info=_fields(_last(edge, 3))))
    if not order:
        raise failure("INVALID_HEF")
    outputs = {stream.name: stream for stream in streams if not stream.is_input}
    return NetworkGroup(
        name,
        tuple(stream for stream in streams if stream.is_input),
        tuple(sorted(outputs.values(), key=lambda stream: order.index(stream.name))),  # core_op_metadata.cpp
        order,
    )


def _read_stream(group: str, is_input: bool, info: dict[int, list]) -> StreamInfo:
    base, numeric = _fields(_last(info, 2)), _fields(_last(info, 3, b""))
    width = _last(base, 12)
    check(width in (1, 2), "INVALID_HEF")
    zero_point, scale = _real(numeric, 1), _real(numeric, 2)
    limits = _real(numeric, 3), _real(numeric, 4)
    if limits == (0.0, 0.0):  # not written by hef_file: what the type can hold
        limits = (0 - zero_point) * scale, (256**width - 1 - zero_point) * scale
    return StreamInfo(
        name=_last(info, 1).decode(),
        network_group=group,
        is_input=is_input,
        shape=(_last(base, 1), _last(base, 3), _last(base, 5)),
        bytes_per_value=width,
        zero_point=zero_point,
        scale=scale,
        limits=limits,
        original_names=tuple(name.decode() for name in info.get(5, [])),
    )


# The protobuf wire format: field number -> its values, numbers as int and everything else as bytes.


def _fields(message: bytes) -> dict[int, list]:
    fields: dict[int, list] = {}
    for number, value in _walk(message):
        fields.setdefault(number, []).append(value)
    return fields


def _walk(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, value = tag & 7, b""
        if kind == 0:
            number, at = _varint(message, at)
            yield tag >> 3, number
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind}")
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            size, at = _varint(message, at)
        value, at = message[at : at + size], at + size
        if at > len(message):
            raise ValueError("a field ends beyond its message")
        yield tag >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _last(fields: dict[int, list], number: int, default: int | bytes | None = None):
    values = fields.get(number)
    if values is None:
        if default is None:
            raise KeyError(number)
        return default
    return values[-1]


def _real(fields: dict[int, list], number: int) -> float:
    return struct.unpack("<f", _last(fields, number, bytes(4)))[0]


def stream_name_of(group: NetworkGroup, original_name: str) -> str:
    """Stream of an original name. hef.cpp: a name that two streams share is an invalid HEF."""
    found = [stream.name for stream in group.inputs + group.outputs if original_name in stream.original_names]
    check(len(found) > 0, "NOT_FOUND")
    check(len(found) == 1, "INVALID_HEF")
    return found[0]


def original_names_of(group: NetworkGroup, name: str) -> list[str]:
    """Original names of a stream."""
    for stream in group.inputs + group.outputs:
        if stream.name == name:
            return list(stream.original_names)
    raise failure("NOT_FOUND")


def check_runs_on(hef: Hef, architecture: str) -> None:
    """libhailort/src/device_common/device_internal.cpp: called when a model is configured, not before."""
    allowed = {"HAILO8": (1, 2, 3), "HAILO8L": (3,), "HAILO10H": (103,)}[architecture]
    if config.RELEASE < (5, 0) and config.RELEASE >= (4, 22):
        allowed = tuple(number for number in allowed if number != 103)  # such HEFs are for HailoRT 5
    if hef.architecture not in allowed:
        raise failure("HEF_NOT_COMPATIBLE_WITH_DEVICE" if config.RELEASE >= (4, 21) else "INVALID_HEF")
    if not hef.whole:  # the firmware checks what the host did not
        raise failure("FW_CONTROL_FAILURE")
