"""The manifest: one canonical text, and no byte of it can change unnoticed."""

import copy
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.errors import BundleError
from whisper_runtime.manifest import SCHEMA, parse, seal, serialise

DATA = {
    "schema": SCHEMA,
    "name": "whisper-tiny-1s-seq8-hailo8",
    "provenance": "emulated",
    "model": {
        "variant": "tiny",
        "arch": "hailo8",
        "seconds": 1,
        "sequence": 8,
        "dims": {"n_vocab": 51865, "n_text_state": 4, "n_text_ctx": 448},
        "vocabulary_parts": [12966, 12966, 12966, 12967],
    },
    "tokenizer": {"file": "multilingual.tiktoken", "sot_sequence": [50258, 50259, 50359, 50363], "eot": 50257},
    "files": {"encoder.emulated.onnx": {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}},
    "note": 'quotes " and \\ and ümläute',
    "build": {"python": "3.11", "snr_db": {"features": 15.25}},
    "evaluations": [],
}
SEALED = seal(DATA, "0.1.0")
TEXT = serialise(SEALED)


def refusal(text, where="/b/manifest.json"):
    with pytest.raises(BundleError) as caught:
        parse(text, where)
    message = str(caught.value)
    assert message.startswith(f"{where}: ")
    assert "\n" not in message
    return message


def changed(**changes):
    data = copy.deepcopy(DATA)
    data.update(changes)
    return data


def test_round_trip():
    manifest = parse(TEXT, "x")
    assert manifest.data == SEALED
    assert serialise(manifest.data) == TEXT
    assert manifest.name == DATA["name"]
    assert manifest.version == f"0.1.0+{manifest.content_digest[:12]}"
    assert manifest.emulated
    assert (manifest.variant, manifest.arch, manifest.seconds, manifest.sequence) == ("tiny", "hailo8", 1, 8)
    assert manifest.dims == DATA["model"]["dims"]
    assert manifest.vocabulary_parts == (12966, 12966, 12966, 12967)
    assert manifest.sot_sequence == (50258, 50259, 50359, 50363)
    assert (manifest.eot, manifest.tokenizer_file) == (50257, "multilingual.tiktoken")
    assert manifest.files["encoder.emulated.onnx"].size == 3
    assert manifest.files["encoder.emulated.onnx"].sha256 == hashlib.sha256(b"abc").hexdigest()


def test_text_is_canonical():
    assert TEXT.isascii()
    assert TEXT.endswith(b"}\n")
    shuffled = dict(reversed(copy.deepcopy(SEALED).items()))
    assert serialise(shuffled) == TEXT
    assert serialise(seal(dict(reversed(DATA.items())), "0.1.0")) == TEXT


def test_sealing_leaves_its_input_alone():
    before = copy.deepcopy(DATA)
    seal(DATA, "9.9.9")
    assert before == DATA


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.from_regex(r"[0-9]\.[0-9]\.[0-9](-rc[0-9])?", fullmatch=True))
def test_any_further_content_survives(extra, semver):
    sealed = seal(changed(extra=extra), semver)
    manifest = parse(serialise(sealed), "x")
    assert manifest.data["extra"] == extra
    assert manifest.version.split("+")[0] == semver


@pytest.mark.parametrize("key", ["build", "evaluations"])
def test_content_digest_leaves_out_what_is_not_content(key):
    other = seal(changed(**{key: ["something else"]}), "0.1.0")
    assert other["content_digest"] == SEALED["content_digest"]
    assert other["manifest_digest"] != SEALED["manifest_digest"]
    assert parse(serialise(other), "x").version == SEALED["version"]


@pytest.mark.parametrize("key", ["schema", "name", "provenance", "model", "tokenizer", "files", "note"])
def test_content_digest_covers_the_rest(key):
    other = seal(changed(**{key: "something else"}), "0.1.0")
    assert other["content_digest"] != SEALED["content_digest"]


def test_semver_is_not_content():
    other = seal(DATA, "0.2.0")
    assert other["content_digest"] == SEALED["content_digest"]
    assert other["version"].startswith("0.2.0+")
    assert parse(serialise(other), "x").version == other["version"]


@settings(max_examples=400)
@given(st.integers(0, len(TEXT) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(position, mask):
    text = bytearray(TEXT)
    text[position] ^= mask
    refusal(bytes(text))


@given(st.integers(0, len(TEXT) - 1), st.sampled_from([b" ", b"\n", b"0", b"a", b",", b'"', b"\x00"]))
def test_any_added_or_lost_byte_is_refused(position, byte):
    refusal(TEXT[:position] + byte + TEXT[position:])
    refusal(TEXT[:position] + TEXT[position + 1 :])


@given(st.integers(0, len(TEXT) - 1))
def test_any_truncation_is_refused(length):
    refusal(TEXT[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line(text):
    refusal(text)


@pytest.mark.parametrize(
    "text", [b"[]", b"1", b'"schema"', b"{}", b'{"schema": "1"}', b'{"schema": null}', b"[" * 10_000]
)
def test_other_json_is_refused(text):
    assert "not a manifest" in refusal(text)


def test_reformatted_is_refused():
    assert "changed since it was written" in refusal(json.dumps(SEALED).encode())


def test_a_key_twice_is_refused():
    text = TEXT.replace(b'\n "name":', b'\n "name": "another",\n "name":')
    assert "changed since it was written" in refusal(text)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99])
def test_newer_schema(schema):
    message = refusal(serialise(seal(changed(schema=schema), "0.1.0")))
    assert message == (
        f"/b/manifest.json: schema {schema} is newer than this runtime, which reads up to {SCHEMA}: "
        "upgrade hailo-whisper-runtime"
    )


def test_newer_schema_is_said_before_anything_else_is_looked_at():
    assert "is newer than this runtime" in refusal(b'{"schema": 2, "what": "ever"}')


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".hidden", "manifest.json", "/etc/passwd", "a\\b", "a b", "ä", "x\n"]
)
def test_file_names_that_leave_the_folder_are_refused(name):
    files = {name: {"size": 1, "sha256": "0" * 64}}
    assert "a field is missing or wrong" in refusal(serialise(seal(changed(files=files), "0.1.0")))


@pytest.mark.parametrize(
    "changes",
    [
        {"provenance": "real"},
        {"model": {}},
        {"model": None},
        {"tokenizer": []},
        {"files": []},
        {"files": {"a": {"size": "many", "sha256": ""}}},
        {"model": {**DATA["model"], "seconds": "ten"}},
        {"model": {**DATA["model"], "dims": [1]}},
        {"tokenizer": {**DATA["tokenizer"], "sot_sequence": None}},
    ],
)
def test_sealed_but_wrong_fields_are_refused(changes):
    assert "a field is missing or wrong" in refusal(serialise(seal(changed(**changes), "0.1.0")))


@pytest.mark.parametrize("key", sorted(set(DATA) - {"note", "build", "evaluations", "schema"}))
def test_sealed_but_missing_fields_are_refused(key):
    data = {name: value for name, value in DATA.items() if name != key}
    assert "a field is missing or wrong" in refusal(serialise(seal(data, "0.1.0")))


def test_compiled_is_not_emulated():
    assert not parse(serialise(seal(changed(provenance="compiled"), "0.1.0")), "x").emulated


def test_nan_cannot_be_written():
    with pytest.raises(ValueError, match="JSON"):
        seal(changed(build={"snr": float("nan")}), "0.1.0")
