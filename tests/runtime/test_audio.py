"""Every recording is read whole, or refused in one line that names it."""

import io
import os
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from whisper_runtime.audio import SAMPLE_RATE, check_samples, load_audio
from whisper_runtime.errors import AudioError

LOSSY = {"OGG", "MP3"}


def tone(seconds, rate=SAMPLE_RATE, hz=440.0):
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def noise(count, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def wav_bytes(samples, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="WAV", **options)
    return buffer.getvalue()


def assert_refused(path, *words):
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    message = str(caught.value)
    assert "\n" not in message
    assert Path(path).name in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(("format_", "extension"), [("WAV", "wav"), ("FLAC", "flac"), ("OGG", "ogg"), ("MP3", "mp3")])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_reads_any_format_rate_and_channel_count(tmp_path, format_, extension, rate, channels):
    path = tmp_path / f"tone.{extension}"
    soundfile.write(path, np.tile(tone(1.5, rate)[:, None], channels), rate, format=format_)
    samples = load_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert samples.flags.c_contiguous
    assert samples.size == 24000
    middle = slice(4000, 20000)
    assert np.abs(samples - tone(1.5))[middle].max() < (0.1 if format_ in LOSSY else 2e-3)


@pytest.mark.parametrize("path_type", [str, os.fspath, lambda path: path])
def test_accepts_strings_and_paths(tmp_path, path_type):
    path = tmp_path / "Überraschung 1.wav"
    soundfile.write(path, tone(0.1), SAMPLE_RATE)
    assert load_audio(path_type(path)).size == 1600


def test_a_wav_at_16_khz_is_returned_bit_for_bit(tmp_path):
    samples = noise(SAMPLE_RATE)
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    assert np.array_equal(load_audio(tmp_path / "a.wav"), samples)


def test_int16_full_scale_is_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([-32768, 0, 16384], np.int16), SAMPLE_RATE)
    assert load_audio(tmp_path / "a.wav").tolist() == [-1.0, 0.0, 0.5]


def test_channels_are_averaged(tmp_path):
    channels = np.stack([noise(5000, seed) for seed in range(3)], axis=1)
    soundfile.write(tmp_path / "a.wav", channels, SAMPLE_RATE, subtype="FLOAT")
    assert np.allclose(load_audio(tmp_path / "a.wav"), channels.mean(axis=1), atol=1e-7)


def test_float_files_may_exceed_full_scale(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([1.5, -3.0], np.float32), SAMPLE_RATE, subtype="FLOAT")
    assert load_audio(tmp_path / "a.wav").tolist() == [1.5, -3.0]


def test_the_result_can_be_written_to(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.1), SAMPLE_RATE)
    load_audio(tmp_path / "a.wav")[0] = 1.0


def test_the_extension_does_not_matter(tmp_path):
    for name in ("a.raw", "a.mp3", "a"):
        (tmp_path / name).write_bytes(wav_bytes(tone(0.1)))
        assert load_audio(tmp_path / name).size == 1600


def test_resampling_in_blocks_equals_resampling_at_once(tmp_path):
    samples = noise(700_001)
    soundfile.write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    assert np.allclose(load_audio(tmp_path / "a.wav"), soxr.resample(samples, 44100, 16000, "HQ"), atol=1e-6)


@pytest.mark.parametrize("extension", ["flac", "mp3"])
def test_decoding_in_blocks_equals_decoding_at_once(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, noise(700_000), SAMPLE_RATE)
    assert np.allclose(load_audio(path), soundfile.read(path, dtype="float32")[0], atol=1e-6)


def test_memory_stays_near_the_size_of_the_result(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.wav", "w", SAMPLE_RATE, 16) as file:
        for seed in range(20):
            file.write(np.tile(noise(SAMPLE_RATE, seed)[:, None], 16))
    load_audio(tmp_path / "a.wav")  # imports and caches
    tracemalloc.start()
    try:
        samples = load_audio(tmp_path / "a.wav")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    decoded = samples.nbytes * 16
    assert peak < samples.nbytes + 6 * 2**20 < decoded


# Files that are no audio


def test_missing_file(tmp_path):
    assert_refused(tmp_path / "missing.wav", "no such file")


def test_directory(tmp_path):
    assert_refused(tmp_path, "directory")


def test_empty_file(tmp_path):
    (tmp_path / "empty.wav").touch()
    assert_refused(tmp_path / "empty.wav", "0 bytes")


def test_path_with_a_nul_character():
    with pytest.raises(AudioError, match="cannot be read"):
        load_audio("a\0b.wav")


def test_a_newline_in_the_name_does_not_break_the_line(tmp_path):
    with pytest.raises(AudioError) as caught:
        load_audio(tmp_path / "two\nlines.wav")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    soundfile.write(tmp_path / "secret.wav", tone(0.1), SAMPLE_RATE)
    (tmp_path / "secret.wav").chmod(0)
    assert_refused(tmp_path / "secret.wav", "cannot be read")


def test_named_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    worker = threading.Thread(target=assert_refused, args=(tmp_path / "pipe.wav", "regular"), daemon=True)
    worker.start()
    worker.join(timeout=10)
    assert not worker.is_alive()


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40,
        b"hello\n" * 1000,
        b"\0",
        bytes(10000),
        b"RIFF",
        b"OggS\0",
        b"ID3",
    ],
    ids=["png", "text", "one-byte", "zeros", "riff-only", "ogg-only", "id3-only"],
)
@pytest.mark.parametrize("extension", ["wav", "mp3", "raw"])
def test_not_audio(tmp_path, content, extension):
    (tmp_path / f"a.{extension}").write_bytes(content)
    assert_refused(tmp_path / f"a.{extension}")


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_no_samples(tmp_path, extension):
    path = tmp_path / f"none.{extension}"
    soundfile.write(path, np.zeros(0, np.float32), SAMPLE_RATE)
    assert_refused(path)


def test_too_short_for_one_sample_at_16_khz(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1)[:1], 48000)
    assert_refused(tmp_path / "a.wav", "no samples")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_not_a_finite_sound(tmp_path, bad, rate, channels):
    samples = np.zeros((300_000, channels), np.float32)
    samples[-1, 0] = bad
    soundfile.write(tmp_path / "bad.wav", samples, rate, subtype="FLOAT")
    assert_refused(tmp_path / "bad.wav", "NaN")


def test_absurd_sample_rate(tmp_path):
    content = bytearray(wav_bytes(tone(0.1)))
    content[24:28] = struct.pack("<I", 1)
    (tmp_path / "a.wav").write_bytes(content)
    assert_refused(tmp_path / "a.wav", "1 samples a second")


# Truncated files


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.99])
def test_truncated(tmp_path, extension, kept):
    path = tmp_path / f"cut.{extension}"
    soundfile.write(path, noise(3 * SAMPLE_RATE), SAMPLE_RATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert_refused(path)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "IMA_ADPCM"])
def test_truncated_wav_of_any_encoding(tmp_path, subtype):
    whole = wav_bytes(tone(1), subtype=subtype)
    (tmp_path / "a.wav").write_bytes(whole)
    assert load_audio(tmp_path / "a.wav").size >= SAMPLE_RATE
    (tmp_path / "a.wav").write_bytes(whole[:-1000])
    assert_refused(tmp_path / "a.wav", "truncated")


@pytest.mark.parametrize("lost", [1, 2, 16000])
def test_wav_shorter_than_its_header_says(tmp_path, lost):
    (tmp_path / "a.wav").write_bytes(wav_bytes(tone(1))[:-lost])
    assert_refused(tmp_path / "a.wav", "truncated", "32000")


@pytest.mark.parametrize(("format_", "endian"), [("WAV", "BIG"), ("WAVEX", "LITTLE"), ("RF64", "LITTLE")])
def test_truncated_wav_of_any_kind(tmp_path, format_, endian):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1), SAMPLE_RATE, subtype="PCM_16", format=format_, endian=endian)
    content = path.read_bytes()
    assert load_audio(path).size == SAMPLE_RATE
    path.write_bytes(content[:-100])
    assert_refused(path, "truncated")


def test_chunks_around_the_sound_are_no_problem(tmp_path):
    content = wav_bytes(tone(1))
    extra = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    (tmp_path / "plain.wav").write_bytes(content)
    (tmp_path / "a.wav").write_bytes(content[:36] + extra + content[36:] + extra)
    assert np.array_equal(load_audio(tmp_path / "a.wav"), load_audio(tmp_path / "plain.wav"))


@pytest.mark.parametrize("riff_size", [0, 8, 36, 32036, 0xFFFFFFFF])
@pytest.mark.parametrize("data_size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_wav_of_unknown_length_is_read_to_its_end(tmp_path, riff_size, data_size):
    content = bytearray(wav_bytes(tone(1)))
    (tmp_path / "plain.wav").write_bytes(content)
    content[4:8] = struct.pack("<I", riff_size)
    content[40:44] = struct.pack("<I", data_size)
    (tmp_path / "a.wav").write_bytes(content)
    assert np.array_equal(load_audio(tmp_path / "a.wav"), load_audio(tmp_path / "plain.wav"))


def test_wav_of_unknown_length_that_begins_with_silence(tmp_path):
    samples = np.concatenate([np.zeros(16000, np.float32), tone(1)])
    content = bytearray(wav_bytes(samples))
    content[40:44] = bytes(4)
    (tmp_path / "a.wav").write_bytes(content)
    assert load_audio(tmp_path / "a.wav").size == 32000


def test_empty_wav_does_not_take_other_chunks_for_sound(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_bytes(tone(1)[:0]) + b"LIST" + struct.pack("<I", 400) + bytes(400))
    assert_refused(tmp_path / "a.wav", "no samples")


def test_flac_of_unknown_length_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(3), SAMPLE_RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO's 36 bits of total samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert load_audio(path).size == 3 * SAMPLE_RATE


def without_length_tag(content):
    """An MP3 without its first frame, which holds the Info or Xing tag."""
    return content[content.index(content[:2], 4) :]


@pytest.mark.parametrize("loud_first", [False, True])
def test_mp3_without_a_length_tag_is_read_to_its_end(tmp_path, loud_first):
    """Its bit rate varies, so that an estimate from the first frame is either too short or too long."""
    path = tmp_path / "a.mp3"
    parts = [np.zeros(4 * SAMPLE_RATE, np.float32), noise(4 * SAMPLE_RATE)]
    soundfile.write(path, np.concatenate(parts[::-1] if loud_first else parts), SAMPLE_RATE)
    path.write_bytes(without_length_tag(path.read_bytes()))
    assert abs(load_audio(path).size - 8 * SAMPLE_RATE) < 3000


def test_mp3_whose_tag_states_no_length_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.concatenate([noise(SAMPLE_RATE), np.zeros(7 * SAMPLE_RATE)]), SAMPLE_RATE)
    content = bytearray(path.read_bytes())
    tag = content.index(b"Xing")
    content[tag + 4 : tag + 130] = bytes(126)
    path.write_bytes(content)
    assert abs(load_audio(path).size - 8 * SAMPLE_RATE) < 3000


def test_mp3_tags_are_no_problem(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(3 * SAMPLE_RATE), SAMPLE_RATE)
    content = path.read_bytes()
    id3v2 = b"ID3\x03\0\0" + bytes([0, 0, 0x20, 0]) + bytes(4096)
    id3v1 = b"TAG" + b"a" * 125
    path.write_bytes(id3v2 + content + id3v1)
    assert load_audio(path).size == 3 * SAMPLE_RATE
    path.write_bytes(id3v2 + without_length_tag(content) + id3v1)
    assert abs(load_audio(path).size - 3 * SAMPLE_RATE) < 3000
    path.write_bytes(id3v2 + content[: len(content) // 2])
    assert_refused(path, "truncated")


# Samples from callers


def test_float32_samples_are_passed_through():
    samples = noise(100)
    assert check_samples(samples, "x") is samples


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([-32768, 16384], np.int16), [-1.0, 0.5]),
        (np.array([-32768, 16384], ">i2"), [-1.0, 0.5]),
        (np.array([-(2**31), 2**30], np.int32), [-1.0, 0.5]),
        (np.array([0.25, -2.0]), [0.25, -2.0]),
        ([0.5, 0.25], [0.5, 0.25]),
        (np.array([0.5, 9.0, 0.25, 9.0])[::2], [0.5, 0.25]),
    ],
)
def test_other_samples_are_converted(samples, expected):
    checked = check_samples(samples, "x")
    assert checked.dtype == np.float32
    assert checked.flags.c_contiguous
    assert checked.tolist() == expected


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((2, 100), np.float32),
        np.float32(0.0),
        np.zeros(0, np.float32),
        np.array([0.0, np.nan], np.float32),
        np.array([0.0, np.inf]),
        np.array([1e300]),
        np.zeros(5, np.int64),
        np.zeros(5, np.uint8),
        np.zeros(5, np.complex64),
        np.zeros(5, bool),
        ["a", "b"],
        [[1.0], [1.0, 2.0]],
        None,
    ],
)
def test_other_things_are_refused_by_name(samples):
    with pytest.raises(AudioError, match="chunk 7"):
        check_samples(samples, "chunk 7")
