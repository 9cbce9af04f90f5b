"""What a HEF says of itself, read without any vendor package.

A HEF is a header (big-endian), a protobuf that describes the networks, and, since header version 1, the
configuration of the chip behind it. The header protects what follows with a digest. All of it is checked before
anything is believed; a file that is damaged, cut short or no HEF at all is refused by name.
"""

import hashlib
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO, Protocol

import xxhash

from whisper_runtime.errors import HefError

ARCHITECTURES = {1: "hailo8", 2: "hailo8r", 3: "hailo8l", 103: "hailo10h"}

_MAGIC = b"\x01HEF"
_COMMON = struct.Struct(">4sII")  # magic, version, size of the protobuf
# What follows in each version. 0: MD5. 1: CRC-32, size of the configuration. 2: XXH3, size of the configuration.
# 3: XXH3, size of the configuration with its padding, size of the padding, size of more data, XXH3 of the protobuf.
_DISTINCT = {
    0: struct.Struct(">4x16s"),
    1: struct.Struct(">4sQ4x"),
    2: struct.Struct(">8sQ16x"),
    3: struct.Struct(">8sQIQ8s8x"),
}

_REFUSED_ARCHITECTURES = {
    0: "names no accelerator that current HailoRT accepts (hw_arch 0)",
    4: "is for hailo15m, which this project does not support",
    5: "is for hailo10h in a form (hw_arch 5) that current HailoRT no longer accepts",
    6: "is for hailo15l, which this project does not support",
}
_BLOCK = 1 << 20
_SCALE_PER_FEATURE = 25  # extension: outputs have a zero point and scale for each feature
_BOUNDARY, _DEVICE_TO_HOST = 0, 1
_FLAT = 2  # format of a stream without height and width, which is never transposed
_MOST_FIELDS = 200_000  # of a real HEF some hundreds are looked at; a made-up one shall not keep us busy
_MOST_NESTED_MUXES = 8


@dataclass(frozen=True)
class HefStream:
    """One input or output of the network.

    Attributes:
        name: `<network group>/<layer>`.
        shape: (height, width, features), without a batch and without the chip's padding.
        bytes_per_value: 1 for uint8, 2 for uint16.
        zero_point, scale: value = (stored - zero_point) * scale. Of an output with a pair for each feature, the pair
            with the highest zero point.
        original_names: names of the ONNX nodes that the compiler made the layer from.
    """

    name: str
    shape: tuple[int, ...]
    bytes_per_value: int
    zero_point: float
    scale: float
    original_names: tuple[str, ...]


@dataclass(frozen=True)
class Hef:
    """A checked HEF.

    Attributes:
        path: the file.
        header_version: 0 to 3.
        architecture: "hailo8", "hailo8r", "hailo8l" or "hailo10h".
        sdk_version: version of the compiler, such as "3.33.0"; empty if the file does not say.
        created: time of compilation (UTC), or None if the file does not say.
        network_groups: names.
        inputs, outputs: streams of the first network group as the chip has them (what HailoRT computes from them on
            the host, such as box suppression, is not shown), outputs in HailoRT's order; empty if there are none.
    """

    path: Path
    header_version: int
    architecture: str
    sdk_version: str
    created: datetime | None
    network_groups: tuple[str, ...]
    inputs: tuple[HefStream, ...]
    outputs: tuple[HefStream, ...]


def read_hef(path: Path) -> Hef:
    """Check a HEF and return what it says of itself.

    The whole file is read once, in blocks; only its protobuf is held in memory.

    Raises:
        HefError: the file cannot be read, is no HEF, is cut short or changed, has a header of a newer version, or is
            for an accelerator that this project does not know.
    """
    try:
        with _open(path) as file:
            version, proto = _checked_proto(path, file)
    except OSError as error:
        raise HefError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return _describe(path, version, proto)
    except _WireError as error:
        raise HefError(f"{path}: its description of the network is damaged: {error}: compile it again") from error


def check_outputs(hef: Hef) -> None:
    """Refuse a HEF with a dead output: one whose stored values are all below its zero point.

    Some compilers (DFC 3.33.0) turn 16-bit outputs into 8-bit ones and leave the 16-bit zero point.

    Raises:
        HefError: an 8-bit output with a zero point beyond 255, or a 16-bit one beyond 65535.
    """
    dead = [
        f"{output.name!r} ({8 * output.bytes_per_value} bits, zero point {output.zero_point:g})"
        for output in hef.outputs
        if output.bytes_per_value in (1, 2) and not output.zero_point <= 256**output.bytes_per_value - 1
    ]
    if dead:
        raise HefError(
            f"{hef.path}: dead output {', '.join(dead)}: the zero point is out of the stored values' range, so every "
            "result would be meaningless: compile with another DFC version, or with 8-bit outputs in the recipe"
        )


# The file


def _open(path: Path) -> BinaryIO:
    """Open a regular file; anything else could block for ever or never end."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a path that no file can have
        raise HefError(f"{path}: cannot be read: {error}") from error
    if stat.S_ISDIR(mode):
        raise HefError(f"{path}: a folder, not a HEF: name the file in it")
    if not stat.S_ISREG(mode):
        raise HefError(f"{path}: not a regular file, so not a HEF")
    return path.open("rb")


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32:
    """CRC-32 with hashlib's interface."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _checked_proto(path: Path, file: BinaryIO) -> tuple[int, bytes]:
    """Return the header's version and the protobuf of a file whose length and digests are right."""
    start = file.read(512)
    _refuse_other_files(path, start)
    size = file.seek(0, 2)
    if len(start) < _COMMON.size:
        raise HefError(f"{path}: truncated: {size} bytes are not even a header: copy the file again")
    _, version, proto_size = _COMMON.unpack_from(start)
    if version not in _DISTINCT:
        raise HefError(
            f"{path}: header version {version} is newer than this runtime knows (0 to {max(_DISTINCT)}): "
            "update whisper-runtime"
        )
    header_size = _COMMON.size + _DISTINCT[version].size
    if len(start) < header_size:
        raise HefError(f"{path}: truncated: {size} bytes are not even a header: copy the file again")
    rest, proto_digest = 0, b""
    if version == 0:
        (digest,) = _DISTINCT[0].unpack_from(start, _COMMON.size)
    elif version in (1, 2):
        digest, rest = _DISTINCT[version].unpack_from(start, _COMMON.size)
    else:
        digest, configuration, padding, more, proto_digest = _DISTINCT[3].unpack_from(start, _COMMON.size)
        rest = configuration + more
        if padding > configuration:
            raise HefError(f"{path}: changed since it was compiled: its header contradicts itself: copy the file again")

    expected = header_size + proto_size + rest
    if size < expected:
        raise HefError(f"{path}: truncated: {size} of {expected} bytes are there: copy the file again")
    if size > expected:
        raise HefError(
            f"{path}: changed since it was compiled: {size - expected} bytes more than its header says: "
            "copy the file again"
        )
    # HailoRT 5 checks the digest of the protobuf alone where there is one; here every digest that is there counts.
    if any(proto_digest):
        _check_digest(path, file, header_size, proto_size, xxhash.xxh3_64(), proto_digest)
    if any(digest) or not any(proto_digest):
        algorithm: _Digest
        if version == 0:
            algorithm = hashlib.md5(usedforsecurity=False)
        else:
            algorithm = _Crc32() if version == 1 else xxhash.xxh3_64()
        _check_digest(path, file, header_size, proto_size + rest, algorithm, digest)
    file.seek(header_size)
    return version, file.read(proto_size)


def _refuse_other_files(path: Path, start: bytes) -> None:
    if not start:
        raise HefError(f"{path}: empty file: copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise HefError(f"{path}: a Git-LFS pointer, not the file itself: run `git lfs pull` where it came from")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        raise HefError(f"{path}: a web page (HTML or XML), not a HEF: download the file itself")
    if start[: len(_MAGIC)] != _MAGIC[: len(start)]:
        raise HefError(f"{path}: not a HEF: it begins with {start[:4].hex(' ')}, a HEF with {_MAGIC.hex(' ')}")


def _check_digest(path: Path, file: BinaryIO, start: int, size: int, algorithm: _Digest, expected: bytes) -> None:
    file.seek(start)
    while size:
        block = file.read(min(size, _BLOCK))
        if not block:
            raise HefError(f"{path}: truncated while it was read: copy the file again")
        algorithm.update(block)
        size -= len(block)
    if algorithm.digest() != expected:
        raise HefError(f"{path}: changed since it was compiled: its digest is not the header's: copy the file again")


# The protobuf. Field numbers are those of HailoRT's hef.proto.


def _describe(path: Path, version: int, proto: bytes) -> Hef:
    reader = _Reader()
    hef = reader.message(memoryview(proto), 1, 2, 5)
    header = reader.message(hef.part(1), 1, 2, 3, 5)
    number = header.integer(1)
    if number not in ARCHITECTURES:
        reason = _REFUSED_ARCHITECTURES.get(number, f"is for an unknown accelerator (hw_arch {number})")
        raise HefError(f"{path}: {reason}: compile it for one of {', '.join(ARCHITECTURES.values())}")
    sdk = header.text(3)
    if not sdk and header.parts(5):
        numbers = reader.message(header.part(5), 1, 2, 3)
        sdk = ".".join(str(numbers.integer(i)) for i in (1, 2, 3))
    groups = [reader.message(group, 1, 3, 4, 5, 7, 8, 10) for group in hef.parts(2)]
    extensions = {reader.message(extension, 1).integer(1) for extension in hef.parts(5)}
    inputs, outputs = _streams(reader, groups[0], _SCALE_PER_FEATURE in extensions) if groups else ((), ())
    return Hef(
        path=path,
        header_version=version,
        architecture=ARCHITECTURES[number],
        sdk_version=sdk,
        created=_time(header.integer(2)),
        network_groups=tuple(_group_name(reader, group) for group in groups),
        inputs=inputs,
        outputs=outputs,
    )


def _time(milliseconds: int) -> datetime | None:
    try:
        return (
            datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds) if milliseconds else None
        )
    except OverflowError:  # beyond the year 9999: the clock of the compiling machine was wrong
        return None


def _bodies(reader: "_Reader", group: "_Message") -> Iterator["_Message"]:
    """Yield every message that may hold the contexts of a network group, in the order in which to look.

    They are in the group itself or in one of its ops, and with the partial layouts of hailo8l one level deeper. A
    network group and a core op have the same numbers for the fields that are read here: 1 metadata, 3 contexts,
    4 order of outputs, 5 fused layers, 7 partial layouts.
    """
    core_ops = [part for op in group.parts(8) for part in reader.message(op, 4).parts(4)]
    for body in [*(reader.message(core_op, 1, 3, 4, 5, 7) for core_op in core_ops[:1]), group]:
        yield body
        for partial in body.parts(7):
            for inner in reader.message(partial, 1).parts(1):
                yield reader.message(inner, 1, 3, 4, 5)


def _group_name(reader: "_Reader", group: "_Message") -> str:
    """Return the name by which HailoRT knows the group: that of its first partial layout before its own."""
    partial = [inner for part in group.parts(7)[:1] for inner in reader.message(part, 1).parts(1)]
    inside = [reader.message(inner, 1).part(1) for inner in partial]
    for metadata in [*inside, group.part(1)]:
        name = reader.message(metadata, 1).text(1)
        if name:
            return name
    return group.text(10)


def _streams(
    reader: "_Reader", group: "_Message", scale_per_feature: bool
) -> tuple[tuple[HefStream, ...], tuple[HefStream, ...]]:
    """Return the inputs and outputs of a network group, as far as they are there."""
    bodies = list(_bodies(reader, group))
    body = next((body for body in bodies if body.parts(3)), None)
    if body is None:
        return (), ()
    transposed = bool(reader.message(body.part(1), 3).integer(3))
    inputs: list[HefStream] = []
    outputs: list[HefStream] = []
    last_order: tuple[str, ...] = ()
    for context in body.parts(3):
        metadata = reader.message(reader.message(context, 3).part(3), 2, 5)
        last_order = metadata.texts(5)
        for part in metadata.parts(2):
            edge = reader.message(part, 1, 3, 4, 5)
            if reader.message(edge.part(5), 3).integer(3) != _BOUNDARY:
                continue
            output = edge.integer(1) == _DEVICE_TO_HOST
            for info in _layers(reader, edge.parts(3), edge.parts(4)):
                stream = _stream(reader, info, transposed, per_feature=output and scale_per_feature)
                (outputs if output else inputs).append(stream)
    # The order is where the compiler of that time put it: very old ones in the last context.
    order = next((names for body in (group, *bodies) if (names := body.texts(4))), last_order)
    fused = reader.message(body.part(5), 1, 2)
    if fused.integer(1):
        order = fused.texts(2)
    place = {name: index for index, name in reversed(list(enumerate(order)))}
    outputs.sort(key=lambda stream: place.get(stream.name, len(place)))
    return tuple(inputs), tuple(outputs)


def _layers(
    reader: "_Reader", infos: list[memoryview], muxes: list[memoryview], depth: int = 0
) -> Iterator[memoryview]:
    """Yield the single layers of an edge; a mux is several layers in one stream, taken apart on the host."""
    if depth > _MOST_NESTED_MUXES:
        raise _WireError("muxes inside of muxes")
    yield from infos
    for mux in muxes:
        for predecessor in reader.message(mux, 5).parts(5):
            inner = reader.message(predecessor, 1, 2)
            yield from _layers(reader, inner.parts(1), inner.parts(2), depth + 1)


def _stream(reader: "_Reader", part: memoryview, transposed: bool, per_feature: bool) -> HefStream:
    info = reader.message(part, 1, 2, 3, 5, 6)
    base = reader.message(info.part(2), 1, 3, 5, 7, 12)
    height, width, features = base.integer(1), base.integer(3), base.integer(5)
    if (transposed or info.integer(6)) and base.integer(7) != _FLAT:
        height, width = width, height
    numeric = reader.message(info.part(3), 1, 2, 5, 6)
    zero_point, scale = numeric.float32(1), numeric.float32(2)
    if per_feature:
        zero_points = numeric.doubles(5) or [zero_point]
        scales = numeric.doubles(6) or [scale]
        highest = max(range(len(zero_points)), key=zero_points.__getitem__)
        zero_point, scale = zero_points[highest], scales[min(highest, len(scales) - 1)]
    return HefStream(info.text(1), (height, width, features), base.integer(12), zero_point, scale, info.texts(5))


# The wire format of protobuf


class _WireError(Exception):
    """The bytes are no protobuf, or not one that a compiler writes."""


@dataclass(frozen=True)
class _Message:
    """The wanted fields of one message by number: integers, and the bytes of every other field.

    As protobuf wants it, a missing field is zero or empty, and of a repeated single field the last one counts.
    """

    integers: dict[int, int] = field(default_factory=dict)
    pieces: dict[int, list[memoryview]] = field(default_factory=dict)

    def integer(self, number: int) -> int:
        return self.integers.get(number, 0)

    def parts(self, number: int) -> list[memoryview]:
        return self.pieces.get(number, [])

    def part(self, number: int) -> memoryview:
        parts = self.parts(number)
        return parts[-1] if parts else memoryview(b"")

    def texts(self, number: int) -> tuple[str, ...]:
        try:
            return tuple(str(part, "utf-8") for part in self.parts(number))
        except UnicodeDecodeError as error:
            raise _WireError("a name is no text") from error

    def text(self, number: int) -> str:
        texts = self.texts(number)
        return texts[-1] if texts else ""

    def float32(self, number: int) -> float:
        return struct.unpack("<f", part)[0] if len(part := self.part(number)) == 4 else 0.0

    def doubles(self, number: int) -> list[float]:
        # Compilers store them packed, many to a part; one to a part is as valid.
        data = b"".join(self.parts(number))
        if len(data) % 8:
            raise _WireError("a list of numbers is cut short")
        return list(struct.unpack(f"<{len(data) // 8}d", data))


class _Reader:
    """Reads messages one level at a time, never beyond their bytes, and only so many fields in all."""

    def __init__(self) -> None:
        self._fields_left = _MOST_FIELDS

    def message(self, data: memoryview, *wanted: int) -> _Message:
        """Return the wanted fields of a message; the others are stepped over."""
        message = _Message()
        position = 0
        while position < len(data):
            self._fields_left -= 1
            if self._fields_left < 0:
                raise _WireError(f"more than {_MOST_FIELDS} fields")
            tag, position = self._varint(data, position)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                value, position = self._varint(data, position)
                if number in wanted:
                    message.integers[number] = value
                continue
            if kind == 2:
                size, position = self._varint(data, position)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise _WireError(f"field type {kind}")
            if size > len(data) - position:
                raise _WireError("a field is longer than what is there")
            if number in wanted:
                message.pieces.setdefault(number, []).append(data[position : position + size])
            position += size
        return message

    def _varint(self, data: memoryview, position: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= len(data):
                raise _WireError("a number is cut short")
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise _WireError("a number is too long")
