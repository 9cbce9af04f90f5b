"""`whisper-runtime stream` as a process: raw PCM in, lines or JSON out; and the microphone on a stand-in."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soxr
from whisper_runtime import live_audio
from whisper_runtime.audio import load_audio
from whisper_runtime.cli import main
from whisper_runtime.errors import AudioError
from whisper_runtime.stream_command import stream
from whisper_runtime.transcriber import Transcriber


def test_latency_counts_what_sound_waited_in_the_queue():
    """A source of four blocks in 0.1 s, and a decoder that takes 0.1 s for what it gets."""
    taken = []

    class Slow:
        def push(self, samples, arrived):
            time.sleep(0.1)
            taken.append((len(samples), time.perf_counter() - arrived))
            return iter(())

        def finish(self):
            return iter(())

    class Pipe:
        def __init__(self):
            self.left = 4

        def read(self, size):
            self.left -= 1
            time.sleep(0.02)
            return bytes(200) if self.left >= 0 else b""

    stream(live_audio.read_pcm(Pipe(), "pipe"), Slow(), list)
    assert sum(count for count, _ in taken) == 400
    assert taken[-1][1] > 0.13  # its own 0.1 s, and what was left of the 0.1 s before


def pcm(path):
    return (load_audio(path) * 32767).astype("<i2").tobytes()


def run(bundle, data, *options):
    command = [sys.executable, "-m", "whisper_runtime", "stream", "-", "--bundle", str(bundle), *options]
    return subprocess.run(command, input=data, capture_output=True, timeout=300)


def test_a_pipe_of_pcm_gives_the_text_of_the_file(tiny_en_bundle, jfk):
    result = run(tiny_en_bundle.folder, pcm(jfk), "--verbose")
    lines = result.stdout.decode().splitlines()
    with Transcriber(tiny_en_bundle.folder) as transcriber:
        segments, _ = transcriber.transcribe(np.frombuffer(pcm(jfk), "<i2"))
        assert lines == [f"[{s.start:7.2f} - {s.end:7.2f}] {s.text}" for s in segments]
    assert b"EMULATED" in result.stderr
    assert b"0:11 of sound" in result.stderr
    assert b"decoder calls" in result.stderr
    assert result.returncode == 0


def test_json_lines_tell_partial_from_committed(tiny_en_bundle, jfk):
    result = run(tiny_en_bundle.folder, pcm(jfk), "--json", "--decoder", "host")
    updates = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 0
    assert [segment["text"] for update in updates for segment in update["committed"]]
    assert all(set(update) == {"committed", "partial", "heard", "latency", "calls"} for update in updates)
    assert updates[-1]["heard"] == 11.0


def test_half_a_sample_is_said_and_loses_nothing(tiny_en_bundle, jfk):
    result = run(tiny_en_bundle.folder, pcm(jfk) + b"x")
    assert "country" in result.stdout.decode()
    assert b"ends in the middle of a sample" in result.stderr
    assert result.returncode == 1


@pytest.mark.parametrize(("close", "said"), [("<&-", "is closed or a terminal"), (">&-", ""), ("2>&-", "")])
def test_closed_standard_streams_are_no_traceback(tiny_en_bundle, jfk, close, said):
    command = f'"$0" -m whisper_runtime stream - --bundle "$1" {close}'
    arguments = ["sh", "-c", command, sys.executable, str(tiny_en_bundle.folder)]
    result = subprocess.run(arguments, input=pcm(jfk), capture_output=True, timeout=300)
    assert b"Traceback" not in result.stderr
    assert said in result.stderr.decode()
    assert result.returncode == (1 if said else 0)


def test_an_empty_pipe_is_an_error(tiny_en_bundle):
    result = run(tiny_en_bundle.folder, b"")
    assert b"standard input: holds no samples" in result.stderr
    assert result.returncode == 1


@pytest.mark.parametrize("hop", ["0", "-1", "nan", "x", "61"])
def test_a_hop_that_makes_no_sense_is_a_usage_error(hop):
    command = [sys.executable, "-m", "whisper_runtime", "stream", "-", "--bundle", "b", f"--hop={hop}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "is not a number of seconds" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_ctrl_c_ends_a_stream_with_its_text(tiny_en_bundle, jfk):
    command = [sys.executable, "-m", "whisper_runtime", "stream", "-", "--json", "--bundle", str(tiny_en_bundle.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(pcm(jfk)[: 2 * 16000 * 4])
        process.stdin.flush()
        first = json.loads(process.stdout.readline())
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        rest = process.stdout.read()  # the pipe to it stays open: nothing may wait for it
        process.wait(timeout=60)
    updates = [first, *map(json.loads, rest.splitlines())]
    assert "fellow Americans" in " ".join(s["text"] for update in updates for s in update["committed"])
    assert process.returncode == 0


class FakePortAudio(SimpleNamespace):
    """As much of sounddevice as `record` uses: a microphone of one rate that says `samples`."""

    class PortAudioError(Exception):
        pass

    class CallbackStop(Exception):
        pass

    def __init__(self, samples, rate):
        super().__init__()
        self.samples, self.rate = samples, rate

    def check_input_settings(self, device, channels, samplerate, dtype):
        if device == "missing":
            raise ValueError("No input device matching 'missing'")
        if samplerate != self.rate:
            raise self.PortAudioError("Invalid sample rate")

    def query_devices(self, device, kind):
        return {"default_samplerate": float(self.rate)}

    def InputStream(self, device, channels, samplerate, dtype, blocksize, callback, finished_callback):
        fake = self

        class Stream:
            def __enter__(self):
                assert samplerate == fake.rate
                try:
                    for start in range(0, len(fake.samples), blocksize):
                        block = fake.samples[start : start + blocksize, None]
                        callback(block, len(block), None, None)
                except fake.CallbackStop:
                    pass
                finished_callback()
                return self

            def __exit__(self, *_):
                pass

        return Stream()


@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_microphone_of_any_rate_is_heard(monkeypatch, rate):
    tone = np.sin(np.arange(2 * rate) * 2 * np.pi * 440 / rate).astype(np.float32)
    monkeypatch.setitem(sys.modules, "sounddevice", FakePortAudio(tone, rate))
    heard = []
    began = time.perf_counter()
    with pytest.raises(AudioError, match="a minute behind"):  # the only way that this stream ends by itself
        heard.extend(live_audio.record())
    assert all(began <= sound.arrived <= time.perf_counter() for sound in heard)
    samples = np.concatenate([sound.samples for sound in heard])
    assert len(samples) == pytest.approx(32000, abs=800)
    assert np.argmax(np.abs(np.fft.rfft(samples[:16000]))) == 440


@pytest.mark.parametrize("rate", [16000, 48000])
def test_the_microphone_is_transcribed_to_its_end(monkeypatch, capsys, tiny_en_bundle, jfk, rate):
    """The whole command on a stand-in: its sound ends as after a lost microphone, and the text is there before."""
    samples = soxr.resample(load_audio(jfk), 16000, rate).astype(np.float32)
    monkeypatch.setitem(sys.modules, "sounddevice", FakePortAudio(samples, rate))
    status = main(["stream", "--json", "--decoder", "host", "--language", "en", "--bundle", str(tiny_en_bundle.folder)])
    shown = capsys.readouterr()
    text = " ".join(s["text"] for line in shown.out.splitlines() for s in json.loads(line)["committed"])
    assert "ask what you can do for your country" in text
    assert "a minute behind" in shown.err
    assert status == 1


def test_a_microphone_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", FakePortAudio(np.zeros(1, np.float32), 16000))
    with pytest.raises(AudioError, match="microphone: No input device matching 'missing'"):
        next(live_audio.record("missing"))


def test_without_sounddevice_there_is_a_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AudioError, match=r"pip install sounddevice.*arecord"):
        next(live_audio.record())
