"""A HEF is read whole and right, or refused by name; nothing in a file can do more than that."""

import importlib.util
import os
import re
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime import cli
from whisper_runtime.errors import HefError
from whisper_runtime.hef import Hef, HefStream, check_outputs, read_hef

FAKES = Path(__file__).resolve().parent.parent / "fakes"


def load_writer():
    """The writer under a name of its own: the vendor's fakes beside it must not become importable."""
    spec = importlib.util.spec_from_file_location("synthetic_hef", FAKES / "hef_file.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


write = load_writer()

GROUP = "whisper_tiny_en_decoder"
INPUTS = (
    write.FakeStream(f"{GROUP}/input_layer1", (1, 500, 384), 1, 127.0, 0.5, ("features",)),
    write.FakeStream(f"{GROUP}/input_layer2", (32, 1, 384), 2, 30000.0, 0.25, ("token_embeddings", "second")),
)
OUTPUTS = tuple(
    write.FakeStream(f"{GROUP}/conv{n}", (32, 1, 12966 - n), 1 + n % 2, 100.0 + n, 0.125, (f"decoder.vocabulary.{n}",))
    for n in (3, 1, 2, 0)
)
ORDER = [f"{GROUP}/conv{n}" for n in range(4)]
PARTS = {"hw_arch": 1, "network_group": GROUP, "inputs": INPUTS, "outputs": OUTPUTS, "sorted_outputs": ORDER}
VERSIONS = (0, 1, 2, 3)


def build(**parts):
    return write.build_hef(**{**PARTS, **parts})


def build_version(version, **parts):
    return build(version=version, payload=b"" if version == 0 else b"configuration" * 100, **parts)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """One file, written anew by each test."""
    return tmp_path_factory.mktemp("hef") / "decoder.hef"


def read(file, data):
    file.write_bytes(data)
    return read_hef(file)


def refusal(file, data):
    with pytest.raises(HefError) as caught:
        read(file, data)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message.removeprefix(f"{file}: ")


def streams(fakes):
    return tuple(HefStream(s.name, s.shape, s.bytes_per_value, s.zero_point, s.scale, s.original_names) for s in fakes)


# What a HEF says


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("architecture", ["hailo8", "hailo8r", "hailo8l", "hailo10h"])
def test_everything_is_read(file, version, architecture):
    when = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=timezone.utc)
    data = build_version(
        version, hw_arch=write.ARCHITECTURES[architecture], timestamp_ms=round(when.timestamp() * 1000)
    )
    assert read(file, data) == Hef(
        path=file,
        header_version=version,
        architecture=architecture,
        sdk_version="3.33.0",
        created=when,
        network_groups=(GROUP,),
        inputs=streams(INPUTS),
        outputs=streams(sorted(OUTPUTS, key=lambda stream: stream.name)),
    )


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("net_flow", [False, True])
def test_every_place_of_the_network(file, partial, net_flow):
    group = write.group_proto(GROUP, INPUTS, OUTPUTS, ORDER, partial, net_flow)
    hef = read(file, write.seal(write.hef_proto(3, [group], "3.33.0", 0, net_flow)))
    assert hef.network_groups == (GROUP,)
    assert hef.inputs == streams(INPUTS)
    assert [stream.name for stream in hef.outputs] == ORDER


def test_several_groups_are_named_and_the_first_is_described(file):
    groups = [write.group_proto(name, INPUTS[:count], OUTPUTS[:1], []) for name, count in (("one", 1), ("two", 2))]
    hef = read(file, write.seal(write.hef_proto(1, groups, "3.33.0", 0)))
    assert hef.network_groups == ("one", "two")
    assert hef.inputs == streams(INPUTS[:1])


def test_the_group_is_named_where_newer_compilers_do(file):
    hef = read(file, write.seal(write.hef_proto(1, [write.text(10, "net")], "3.33.0", 0)))
    assert hef.network_groups == ("net",)


def test_a_hef_without_streams_is_no_error(file):
    assert read(file, write.seal(write.hef_proto(1, [], "5.1.0", 0))) == Hef(
        file, 3, "hailo8", "5.1.0", None, (), (), ()
    )


def test_outputs_without_an_order_stay_as_stored(file):
    for order in ([], ["another"]):
        assert read(file, build(sorted_outputs=order)).outputs == streams(OUTPUTS)


def test_very_old_order_in_the_last_context(file):
    context = write.message(3, write.message(3, b"".join(write.text(5, name) for name in ORDER)))
    group = write.context_proto(INPUTS, OUTPUTS) + context
    assert [stream.name for stream in read(file, write.seal(write.hef_proto(1, [group], "", 0))).outputs] == ORDER


def test_order_of_fused_outputs(file):
    fused = write.integer(1, 1) + b"".join(write.text(2, name) for name in ORDER)
    group = write.context_proto(INPUTS, OUTPUTS) + write.text(4, OUTPUTS[0].name) + write.message(5, fused)
    assert [stream.name for stream in read(file, write.seal(write.hef_proto(1, [group], "", 0))).outputs] == ORDER


def mux(*layers, depth=1):
    """An edge layer that holds others, `depth` times."""
    inner = b"".join(write.message(5, write.message(1, write.info_proto(layer))) for layer in layers)
    for _ in range(depth - 1):
        inner = write.message(5, write.message(2, inner))
    return write.integer(1, 1) + write.integer(2, 1) + write.message(4, inner)


def with_edge(edge, version=3):
    context = write.message(3, write.message(3, write.message(2, edge)))
    return write.seal(write.hef_proto(1, [context], "3.33.0", 0), version=version)


def test_outputs_in_one_stream_are_listed_one_by_one(file):
    for depth in (1, 3):
        assert read(file, with_edge(mux(*OUTPUTS, depth=depth))).outputs == streams(OUTPUTS)


def test_muxes_without_end_are_refused(file):
    assert "muxes inside of muxes" in refusal(file, with_edge(mux(*OUTPUTS, depth=5000)))


def test_transposed_streams(file):
    info = write.info_proto(OUTPUTS[0]) + write.integer(6, 1)
    hef = read(file, with_edge(write.integer(1, 1) + write.message(3, info)))
    assert hef.outputs[0].shape == (1, 32, OUTPUTS[0].shape[2])


@pytest.mark.parametrize("packed", [True, False])
def test_scale_of_each_feature_counts_where_the_file_declares_it(file, packed):
    def doubles(number, *values):
        if packed:
            return write.message(number, struct.pack("<3d", *values))
        return b"".join(write.varint(number << 3 | 1) + struct.pack("<d", value) for value in values)

    numeric = write.real(1, 7.0) + write.real(2, 0.5) + doubles(5, 1.0, 300.0, 2.0) + doubles(6, 0.1, 0.2, 0.3)
    info = write.text(1, "out") + write.message(2, write.integer(12, 1)) + write.message(3, numeric)
    context = write.message(3, write.message(3, write.message(2, write.integer(1, 1) + write.message(3, info))))
    proto = write.hef_proto(1, [context], "3.33.0", 0)
    (plain,) = read(file, write.seal(proto)).outputs
    assert (plain.zero_point, plain.scale) == (7.0, 0.5)
    hef = read(file, write.seal(proto + write.message(5, write.integer(1, 25))))
    (output,) = hef.outputs
    assert (output.zero_point, output.scale) == (300.0, 0.2)
    with pytest.raises(HefError, match="dead output"):
        check_outputs(hef)


def test_sdk_version_in_numbers_only(file):
    numbers = write.integer(1, 3) + write.integer(2, 33)
    proto = write.message(1, write.integer(1, 1) + write.message(5, numbers))
    assert read(file, write.seal(proto)).sdk_version == "3.33.0"


def test_an_impossible_time_is_no_time(file):
    assert read(file, build(timestamp_ms=2**64 - 1)).created is None


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_payload_is_not_taken_for_the_network(file, version):
    data = build_version(version)
    assert write.read_payload(data) == b"configuration" * 100
    assert read(file, data).inputs == streams(INPUTS)


def test_only_the_digests_that_are_there_are_checked(file):
    data = bytearray(build(payload=b"configuration"))
    for start in (12, 40):  # of everything, of the protobuf
        changed = bytearray(data)
        changed[start : start + 8] = bytes(8)
        assert read(file, bytes(changed)) == read(file, bytes(data))
    data[12:20] = data[40:48] = bytes(8)
    assert "changed" in refusal(file, bytes(data))


# Dead outputs


@pytest.mark.parametrize(
    ("size", "zero_point", "alive"),
    [(1, 0, True), (1, 255, True), (1, 256, False), (1, 25000, False), (2, 65535, True), (2, 65536, False)],
)
def test_dead_outputs_are_refused(file, size, zero_point, alive):
    dead = replace(OUTPUTS[1], bytes_per_value=size, zero_point=float(zero_point))
    hef = read(file, build(outputs=(OUTPUTS[0], dead)))
    if alive:
        check_outputs(hef)
        return
    with pytest.raises(HefError) as caught:
        check_outputs(hef)
    message = str(caught.value)
    assert message.startswith(f"{file}: dead output '{dead.name}' ({8 * size} bits, zero point {zero_point})")
    assert OUTPUTS[0].name not in message
    assert "\n" not in message


def test_a_zero_point_that_is_no_number_is_dead(file):
    hef = read(file, build(outputs=(replace(OUTPUTS[0], zero_point=float("nan")),)))
    with pytest.raises(HefError, match="dead output"):
        check_outputs(hef)


# Refusals


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2\n", "a Git-LFS pointer"),
        (b"<!DOCTYPE html>\n<html><title>Not Found</title></html>", "a web page"),
        (b"\xef\xbb\xbf\r\n  <HTML><body>Sign in</body></HTML>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
        (b"\x08\x08\x12\x07pytorch", "not a HEF: it begins with 08 08 12 07"),
        (b"FEH\x01" + bytes(100), "not a HEF"),
        (b"\x00" * 4096, "not a HEF"),
        (b"x", "not a HEF"),
        (b"\x01HEF" + struct.pack(">II", 4, 0) + bytes(100), "header version 4 is newer than this runtime knows"),
        (b"\x01HEF" + struct.pack(">II", 2**32 - 1, 0), "header version 4294967295 is newer"),
    ],
)
def test_other_files_are_refused_by_name(file, data, reason):
    assert refusal(file, data).startswith(reason)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_truncation_is_called_one(file, version):
    data = build_version(version)
    for size in [*range(1, 80), len(data) // 2, len(data) - 1]:
        assert refusal(file, data[:size]).startswith("truncated: ")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_longer_file_is_called_changed(file, version):
    assert "2 bytes more than its header says" in refusal(file, build_version(version) + b"\r\n")


@pytest.mark.parametrize("version", VERSIONS)
def test_one_changed_byte_anywhere_behind_the_header_is_called_a_change(file, version):
    data = build_version(version)
    start = write.HEADER_SIZES[version]
    for position in [*range(start, start + 700, 7), len(data) - 1]:
        changed = bytearray(data)
        changed[position] ^= 0x10
        assert "changed since it was compiled: its digest" in refusal(file, bytes(changed))


def test_a_header_that_contradicts_itself(file):
    data = bytearray(build())
    data[28:32] = struct.pack(">I", 2**31)  # more padding than there is configuration
    assert "contradicts itself" in refusal(file, bytes(data))


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (0, "names no accelerator that current HailoRT accepts (hw_arch 0)"),
        (4, "is for hailo15m"),
        (5, "no longer accepts"),
        (77, "is for an unknown accelerator (hw_arch 77)"),
    ],
)
def test_other_accelerators_are_refused(file, number, reason):
    message = refusal(file, build(hw_arch=number))
    assert reason in message
    assert "compile it for one of hailo8, hailo8r, hailo8l, hailo10h" in message


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.hef")
    (tmp_path / "loop.hef").symlink_to(tmp_path / "loop.hef")
    for path, reason in {
        tmp_path: "a folder, not a HEF",
        tmp_path / "pipe.hef": "not a regular file",  # opening it would wait for ever
        tmp_path / "none.hef": "cannot be read: No such file",
        tmp_path / "loop.hef": "cannot be read: Too many levels",
        tmp_path / "nul\0.hef": "cannot be read: embedded null",
        Path("/dev/zero"): "not a regular file",
    }.items():
        with pytest.raises(HefError) as caught:
            read_hef(path)
        assert str(caught.value).startswith(f"{path}: {reason}")


def test_an_unreadable_file_is_refused(file, monkeypatch):
    file.write_bytes(build())

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(HefError, match="cannot be read: Permission denied"):
        read_hef(file)


# Hostile files


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (b"\x0a\xff\xff\xff\xff\x0f", "a field is longer than what is there"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "a field is longer than what is there"),
        (b"\x08" + b"\xff" * 11, "a number is too long"),
        (b"\x08\x80", "a number is cut short"),
        (b"\x0b\x0c", "field type 3"),
        (b"\x0d\x00", "a field is longer than what is there"),
        (b"\x12\x00" * 300_000, "more than 200000 fields"),
        (b"\x0a\x07\x08\x01\x1a\x03\xff\xfe\xfd", "a name is no text"),
    ],
)
def test_a_damaged_protobuf_with_a_right_digest_is_refused(file, proto, reason):
    message = refusal(file, write.seal(proto))
    assert message.startswith(f"its description of the network is damaged: {reason}")


@pytest.mark.parametrize("version", VERSIONS)
def test_sizes_in_the_header_are_not_believed(file, version):
    sizes = {0: b"\xff" * 20, 1: b"\xff" * 16, 2: b"\xff" * 32, 3: b"\xff" * 16 + bytes(4) + b"\xff" * 24}[version]
    tracemalloc.start()
    try:
        message = refusal(file, b"\x01HEF" + struct.pack(">II", version, 2**32 - 1) + sizes + bytes(1000))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert message.startswith("truncated: ")


def test_a_large_file_is_read_in_blocks(file):
    data = build(payload=bytes(30_000_000))
    file.write_bytes(data)
    tracemalloc.start()
    try:
        read_hef(file)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def only_a_hef_error(file, data):
    message = f"{file}: fine"
    try:
        hef = read(file, data)
        cli.describe_hef(hef)
        check_outputs(hef)
    except HefError as error:
        message = str(error)
    assert re.fullmatch(f"{file}: .+", message)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x01HEF", *(b"\x01HEF\0\0\0" + bytes([v]) for v in VERSIONS)]))
def test_random_bytes(file, data, start):
    only_a_hef_error(file, start + data)


edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8)


def edited(data, changes):
    result = bytearray(data)
    for place, value in changes:
        result[int(place * len(result))] = value
    return bytes(result)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(VERSIONS), edits, st.floats(0, 1))
def test_random_changes_and_truncations_of_a_file(file, version, changes, kept):
    data = edited(build_version(version), changes)
    only_a_hef_error(file, data)
    only_a_hef_error(file, data[: int(kept * len(data))])


@settings(max_examples=400, deadline=None)
@given(st.booleans(), st.booleans(), edits, st.floats(0.5, 1))
def test_random_changes_under_a_right_digest(file, partial, net_flow, changes, kept):
    group = write.group_proto(GROUP, INPUTS, OUTPUTS, ORDER, partial, net_flow)
    proto = edited(write.hef_proto(3, [group], "3.33.0", 1, net_flow), changes)
    only_a_hef_error(file, write.seal(proto[: int(kept * len(proto))] if kept < 0.9 else proto))


names = st.text(st.characters(codec="utf-8"), max_size=20)
sizes = st.integers(0, 2**32 - 1)
reals = st.floats(width=32, allow_nan=False)
stream = st.builds(
    write.FakeStream,
    name=names,
    shape=st.tuples(sizes, sizes, sizes),
    bytes_per_value=st.sampled_from([1, 2]),
    zero_point=reals,
    scale=reals,
    original_names=st.lists(names, max_size=3).map(tuple),
)


@settings(deadline=None)
@given(st.sampled_from(VERSIONS), st.lists(stream, max_size=4), st.lists(stream, max_size=4), names, st.booleans())
def test_streams_round_trip(file, version, inputs, outputs, name, partial):
    data = build_version(
        version, network_group=name, inputs=inputs, outputs=outputs, sorted_outputs=[], hw_arch=3 if partial else 1
    )
    hef = read(file, data)
    assert hef.network_groups == (name,)
    assert hef.inputs == streams(inputs)
    assert hef.outputs == streams(outputs)
    assert all(line.isprintable() for line in cli.describe_hef(hef).split("\n"))


# The command line


def test_info_prints_what_it_is(file, capsys):
    when = datetime(2026, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
    file.write_bytes(build(hw_arch=3, timestamp_ms=round(when.timestamp() * 1000)))
    assert cli.main(["info", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{file}: HEF"
    assert [line.split(maxsplit=1) for line in lines[1:6]] == [
        ["for", "hailo8l"],
        ["compiler", "DFC 3.33.0"],
        ["created", "2026-02-03 04:05:06 UTC"],
        ["header", "version 3, digest verified"],
        ["network", GROUP],
    ]
    assert lines[7] == (
        f"  input        {GROUP}/input_layer2: 32 x 1 x 384, 16 bits, scale 0.25, zero point 30000, "
        "from token_embeddings, second"
    )
    assert [line.split()[:2] for line in lines[8:]] == [["output", f"{name}:"] for name in ORDER]


def test_info_of_a_dead_output_fails(file, capsys):
    file.write_bytes(build(outputs=(replace(OUTPUTS[0], bytes_per_value=1, zero_point=25000.0),)))
    assert cli.main(["info", str(file)]) == 1
    printed = capsys.readouterr()
    assert "zero point 25000" in printed.out
    assert printed.err.startswith(f"whisper-runtime: {file}: dead output ")


def test_info_of_other_paths(tmp_path, capsys):
    (tmp_path / "page.hef").write_text("<html></html>")
    for path, reason in {
        tmp_path / "page.hef": "a web page",
        tmp_path / "none.hef": "cannot be read: No such file",
        tmp_path: "manifest.json: cannot be read (FileNotFoundError), so this is no bundle",
        tmp_path / "none": "no such folder",
    }.items():
        assert cli.main(["info", str(path)]) == 1
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


def test_names_cannot_steer_the_terminal(file, capsys):
    file.write_bytes(build(network_group="\x1b[2Jnet\nwork"))
    assert cli.main(["info", str(file)]) == 0
    assert r"'\x1b[2Jnet\nwork'" in capsys.readouterr().out


def test_info_needs_no_vendor_package(file):
    file.write_bytes(build())
    code = "import sys; from whisper_runtime import cli; cli.main(sys.argv[1:]); print('hailo_platform' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "info", file], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n")
    assert done.stderr == ""
