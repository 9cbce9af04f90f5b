"""Calibration sets: rows written in any order, the journal, recordings put aside and mixed, the recorded set."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.decoding import GreedyDecoder
from whisper_runtime.errors import TokenizerError
from whisper_runtime.mel import window_mel
from whisper_runtime.slot_decoder import SlotDecoder, fill_slots
from whisper_runtime.token_rules import TokenRules
from whisper_runtime.windows import cut_windows
from whisper_toolchain.calibration import CALIBRATION, HOLDOUT, batched_decoder
from whisper_toolchain.calibration.array_file import ArrayFile
from whisper_toolchain.calibration.batched_decoder import BatchedDecoder
from whisper_toolchain.calibration.journal import CutWindow, Journal
from whisper_toolchain.calibration.record import FloatModel, record
from whisper_toolchain.calibration.selection import HOLDOUT_WINDOWS, mix, split_holdout
from whisper_toolchain.datasets import Utterance
from whisper_toolchain.errors import DatasetError
from whisper_toolchain.float_model import load_tokenizer
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

# Arrays


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    st.sampled_from([np.float32, np.int32, np.float16]),
    st.integers(0, 99),
    st.integers(0, 3),
)
def test_rows_written_in_any_order_are_what_np_save_writes(tmp_path_factory, shape, dtype, seed, unused):
    array = (np.random.default_rng(seed).standard_normal(shape) * 100).astype(dtype)
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    order = random.Random(seed).sample(range(len(array)), len(array))
    for rows in (order[: len(order) // 2], order[len(order) // 2 :]):  # closed and gone on with in between
        with ArrayFile(path, len(array) + unused, shape[1:], dtype) as file:
            for row in rows:
                file.write(row, np.asarray(array[row]))
                assert np.array_equal(file.read(row), array[row])
    with ArrayFile(path, len(array) + unused, shape[1:], dtype) as file:
        file.finish(len(array))
    saved = io.BytesIO()
    np.save(saved, array)
    assert path.read_bytes() == saved.getvalue()


def test_rows_may_be_views(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    with ArrayFile(tmp_path / "a.npy", 2, (4, 3), np.float32) as file:
        for number, row in enumerate(array):
            file.write(number, row.T)
    assert np.array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), array.transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("row", "values"),
    [
        (0, np.zeros((4, 3), np.float32)),
        (0, np.zeros((3, 4), np.float64)),
        (0, np.zeros((1, 3, 4), np.float32)),
        (2, np.zeros((3, 4), np.float32)),
        (-1, np.zeros((3, 4), np.float32)),
    ],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path, row, values):
    with ArrayFile(tmp_path / "a.npy", 2, (3, 4), np.float32) as file, pytest.raises(ValueError, match="does not fit"):
        file.write(row, values)


# The journal


def cut_window(recording, start=0):
    return CutWindow(recording, None, start, 16000, 0.5, 0)


def fill_journal(path):
    journal = Journal(path)
    journal.add_recordings([("a", [cut_window("a"), cut_window("a", 9)]), ("silence", [])])
    journal.add_texts({1: [5, 6], 0: []})
    journal.add_recordings([("b", [cut_window("b")])])
    return journal.done


def test_a_journal_says_again_what_it_was_told(tmp_path):
    done = fill_journal(tmp_path / "journal")
    assert done.recordings == ["a", "silence", "b"]
    assert [window.recording for window in done.windows] == ["a", "a", "b"]
    assert done.texts == {0: [], 1: [5, 6]}
    assert Journal(tmp_path / "journal").done == done
    Journal(tmp_path / "journal").add_encoded([2, 0])
    assert Journal(tmp_path / "journal").done.encoded == {0, 2}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path, share):
    path = tmp_path / "journal"
    done = fill_journal(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    journal = Journal(path)
    lines = int(share * len(data)) and data[: int(share * len(data))].count(b"\n")
    assert len(journal.done.recordings) == (0, 2, 2)[lines]
    assert journal.done.texts == (done.texts if lines == 2 else {})
    journal.add_texts({7: [1]})
    assert Journal(path).done.texts[7] == [1]


DAMAGE = (b"\x00\xff\x00", b"[1, 2]", b"null", b'{"texts": 5}', b'{"texts": [[0, null]]}', b'{"texts": [[99, [1]]]}')
DAMAGE += (b'{"cut": [["c", [{"recording": "c"}]]]}', b'{"cut": [["c", 3]]}', b'{"cut": "', b"{}")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("line", [0, 1, 2])
def test_what_follows_a_damaged_line_is_made_again(tmp_path, damage, line):
    path = tmp_path / "journal"
    fill_journal(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = damage + b"\n"
    path.write_bytes(b"".join(lines))
    journal = Journal(path)
    assert journal.damaged_line == line + 1
    assert journal.done.recordings == (["a", "silence"] if line else [])
    assert journal.done.texts == ({0: [], 1: [5, 6]} if line == 2 else {})
    assert path.read_bytes() == b"".join(lines[:line])
    journal.add_recordings([("c", [cut_window("c")])])
    again = Journal(path)
    assert again.done == journal.done
    assert again.damaged_line is None


@given(st.data())
def test_bytes_of_any_kind_are_no_traceback(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "journal"
    done = fill_journal(path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path.write_bytes(bytes(content))
    found = Journal(path).done
    assert found.windows == done.windows[: len(found.windows)]
    assert found.texts.items() <= done.texts.items()
    assert Journal(path).damaged_line is None


# The holdout


def utterances(count, texts=lambda number: "text"):
    return [Utterance(f"id-{n:04}", Path(f"{n}.wav"), texts(n), None) for n in range(count)]


@given(st.integers(2, 120), st.integers(0, 2**32), st.integers(0, 5), st.randoms(use_true_random=False))
def test_split_is_seeded_disjoint_and_the_same_in_any_order(count, seed, every, shuffler):
    items = utterances(count, lambda n: None if every and n % every == 0 else "text")
    calibration, holdout = split_holdout(items, seed)
    ids = [u.id for u in calibration] + [u.id for u in holdout]
    assert sorted(ids) == [u.id for u in items]
    assert calibration
    assert len(holdout) == max(1, min(HOLDOUT_WINDOWS, count // 4))
    shuffled = list(items)
    shuffler.shuffle(shuffled)
    assert split_holdout(shuffled, seed) == (calibration, holdout)
    assert shuffled is not calibration
    with_text = sum(u.text is not None for u in items)
    assert sum(u.text is not None for u in holdout) == min(with_text, len(holdout))
    assert [u.text is None for u in holdout] == sorted(u.text is None for u in holdout)


def test_another_seed_draws_others():
    items = utterances(100)
    drawn = {tuple(u.id for u in split_holdout(items, seed)[1]) for seed in range(10)}
    assert len(drawn) == 10
    before = list(items)
    split_holdout(items, 1)
    assert items == before


def test_the_global_generator_is_left_alone():
    random.seed(1)
    expected = random.random()
    random.seed(1)
    split_holdout(utterances(20), 7)
    assert random.random() == expected


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_recordings_are_refused(count):
    with pytest.raises(DatasetError) as caught:
        split_holdout(utterances(count), 0)
    assert str(caught.value) == "calibration needs at least two recordings: one to calibrate on, one to measure"


# The order


def write_noise(path, seconds):
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(int(16000 * seconds)), 16000)
    return path


def test_speakers_and_lengths_take_turns(tmp_path):
    files = [write_noise(tmp_path / f"{seconds}.wav", seconds) for seconds in (1, 2, 3)]
    # Speaker a has most of the recordings, and drawing order has them first.
    items = [Utterance(f"a{n}", files[n % 3], None, "a") for n in range(9)]
    items += [Utterance(f"b{n}", files[n % 3], None, "b") for n in range(3)]
    mixed = mix(items)
    assert sorted(item.id for item in mixed) == sorted(item.id for item in items)
    assert [item.speaker for item in mixed[:6]] == ["a", "b"] * 3
    assert {item.path for item in mixed[:6] if item.speaker == "a"} == set(files)
    assert {item.path for item in mixed[6:9]} == set(files)


def test_without_speakers_lengths_take_turns(tmp_path):
    files = [write_noise(tmp_path / f"{seconds}.wav", seconds) for seconds in (1, 2, 3)]
    items = [Utterance(f"{n}", files[n // 3], None, None) for n in range(9)]
    for first in (0, 3, 6):
        assert {item.path for item in mix(items)[first : first + 3]} == set(files)
    assert mix([]) == []


# The real set


def test_the_recorded_set(tiny_en_bundle, tiny_en_plan):
    folder, results = tiny_en_bundle.calibrated.folder, tiny_en_bundle.calibrated.results
    for files, count in ((CALIBRATION, results["count"]), (HOLDOUT, None)):
        mel, features, embeddings, lengths = (
            np.load(folder / name, mmap_mode="r", allow_pickle=False)
            for name in (files.mel, files.features, files.token_embeddings, files.lengths)
        )
        count = count or len(lengths)
        assert mel.shape == (count, 1, 1000, 80)
        assert features.shape == (count, 1, 500, 384)
        assert embeddings.shape == (count, 32, 1, 384)
        assert lengths.shape == (count,)
        assert {mel.dtype, features.dtype, embeddings.dtype} == {np.dtype(np.float32)}
        assert all(np.isfinite(array).all() for array in (mel, features, embeddings))
        assert (lengths > 2).all()
        assert (lengths <= tiny_en_plan.sequence).all()
        for row, length in zip(embeddings, lengths, strict=True):
            assert row[:length].any(axis=(1, 2)).all()
            assert not row[length:].any()
        rows = [json.loads(line) for line in (folder / files.rows).read_text(encoding="utf-8").splitlines()]
        assert [row["row"] for row in rows] == list(range(count))
        assert all(row["text"] and row["samples"] <= 160000 for row in rows)
        assert np.array_equal(embeddings[:, :2], np.broadcast_to(embeddings[0, :2], (count, 2, 1, 384)))  # the prompt
    assert results["count"] == results["decoder_count"] == 16
    assert len(set(results["holdout"])) == len(results["holdout"]) > 0


@pytest.fixture(scope="module")
def float_model(workspace, tiny_en_bundle, tiny_en_plan, tiny_en_checkpoint):
    """The float model of tiny.en as the calibrate stage opens it."""
    export = tiny_en_bundle.exported.folder
    with OnnxRuntimeBackend(export / "encoder.onnx", export / "decoder.onnx", threads=1) as backend:
        tokenizer = load_tokenizer(workspace.whisper, tiny_en_plan.dims)
        yield FloatModel.of(tiny_en_plan, backend, tiny_en_checkpoint, tokenizer)


def test_rows_hold_what_the_runtime_would_feed(float_model, speech, tmp_path):
    """Every row, by the runtime's own cutting, mel, encoder and greedy decoder."""
    # Spoken faster, so that some texts do not fit in the slots.
    recordings = []
    for utterance in speech.utterances():
        path = tmp_path / f"{utterance.id.replace('/', '-')}.wav"
        soundfile.write(path, load_audio(utterance.path), round(1.4 * SAMPLE_RATE))
        recordings.append(Utterance(utterance.id, path, None, None))
    speech = sorted(recordings, key=lambda recording: -recording.path.stat().st_size)
    windows = record(speech, 30, 24, CALIBRATION, tmp_path, float_model).windows
    mel, features, embeddings, lengths = (np.load(tmp_path / name) for name in CALIBRATION.arrays)
    assert len(mel) == len(windows) > len(features) == len(embeddings) == len(lengths) == 24
    cut = [
        (utterance.id, window)
        for utterance in speech
        for window in cut_windows([load_audio(utterance.path)], float_model.plan.seconds)
    ][: len(windows)]
    assert [(known.recording, known.start, known.samples) for known in windows] == [
        (recording, window.start, len(window.samples)) for recording, window in cut
    ]
    prompt = float_model.tokenizer.sot_sequence()
    slots = SlotDecoder(float_model.backend, float_model.embedding, float_model.plan.sequence)
    decoder = GreedyDecoder(slots, float_model.tokenizer)
    full = 0
    for row, (_, window) in enumerate(cut):
        shown = window_mel(window.samples, float_model.plan.seconds).T[None]
        assert np.array_equal(mel[row], shown)
        if row >= 24:
            continue
        encoded = float_model.backend.encode(np.ascontiguousarray(shown))
        assert np.array_equal(features[row], encoded)
        slots.begin(encoded)
        tokens = decoder.decode(prompt, TokenRules(float_model.tokenizer), window.seconds).tokens
        ids, positions = fill_slots(prompt, tokens, float_model.plan.sequence)
        assert lengths[row] == len(ids)
        assert np.array_equal(embeddings[row], float_model.embedding.embed(ids, positions, float_model.plan.sequence))
        full += len(prompt) + len(tokens) > float_model.plan.sequence
    assert full  # some texts are longer than the slots


@pytest.fixture(scope="module")
def encoded(float_model, speech):
    """Features and lengths of the first windows."""
    windows = [next(cut_windows([load_audio(utterance.path)], 10)) for utterance in speech.utterances()[:6]]
    mels = [np.ascontiguousarray(window_mel(window.samples, 10).T[None]) for window in windows]
    return np.concatenate([float_model.backend.encode(mel) for mel in mels]), [window.seconds for window in windows]


def test_a_text_does_not_depend_on_its_batch(float_model, encoded):
    features, seconds = encoded
    together = [text.tokens for text in float_model.batched.decode(features, seconds)]
    turned = [text.tokens for text in float_model.batched.decode(features[::-1].copy(), seconds[::-1])][::-1]
    alone = [float_model.batched.decode(features[[row]], [length])[0].tokens for row, length in enumerate(seconds)]
    assert together == turned == alone
    assert all(together)


def test_exact_and_coarse_vocabulary_agree(float_model, tiny_en_checkpoint, encoded, monkeypatch):
    texts = []
    for is_quicker in (True, False):
        monkeypatch.setattr(batched_decoder, "_is_quicker", lambda *_, answer=is_quicker: answer)
        tokenizer = float_model.tokenizer
        decoder = BatchedDecoder(tiny_en_checkpoint, 32, tokenizer, tokenizer.sot_sequence())
        texts.append([text.tokens for text in decoder.decode(*encoded)])
    assert texts[0] == texts[1]


def test_close_choices_are_left_to_the_runtime(float_model, encoded, speech, tmp_path, monkeypatch):
    assert any(text.sure for text in float_model.batched.decode(*encoded))
    for name in ("batched", "exact"):
        (tmp_path / name).mkdir()
    record(speech.utterances(), 6, 6, CALIBRATION, tmp_path / "batched", float_model)
    monkeypatch.setattr(batched_decoder, "CLOSE_LOGITS", 1e9)
    assert not any(text.sure for text in float_model.batched.decode(*encoded))
    record(speech.utterances(), 6, 6, CALIBRATION, tmp_path / "exact", float_model)
    for name in (*CALIBRATION.arrays, CALIBRATION.rows):
        assert (tmp_path / "batched" / name).read_bytes() == (tmp_path / "exact" / name).read_bytes()


def test_a_damaged_journal_is_said_and_made_good(float_model, speech, tmp_path, capsys):
    for name in ("good", "damaged"):
        (tmp_path / name).mkdir()
    journal = tmp_path / "damaged" / f"{CALIBRATION.rows}.journal"
    journal.write_bytes(b"\x00\x00\n")
    for name in ("good", "damaged"):
        record(speech.utterances(), 3, 2, CALIBRATION, tmp_path / name, float_model)
    lines = [line for line in capsys.readouterr().err.splitlines() if "journal" in line]
    assert lines == [f"calibrate: {journal}: line 1 is damaged; what follows is made again"]
    for name in (*CALIBRATION.arrays, CALIBRATION.rows):
        assert (tmp_path / "good" / name).read_bytes() == (tmp_path / "damaged" / name).read_bytes()


def test_the_prompt_names_the_language(workspace, toy_checkpoint, float_model):
    dims = Dimensions(80, 50, 16, 2, 1, 51865, 448, 16, 2, 1)
    plan, checkpoint = ShapePlan("toy", "hailo8", 1, 12, dims), toy_checkpoint(dims, 1)
    tokenizer = load_tokenizer(workspace.whisper, dims)
    for language, options in (("en", ()), ("de", ("de",))):
        model = FloatModel.of(plan, float_model.backend, checkpoint, tokenizer, *options)
        assert model.batched.prompt == tokenizer.sot_sequence(language)
    with pytest.raises(TokenizerError, match="unknown language 'xx'"):
        FloatModel.of(plan, float_model.backend, checkpoint, tokenizer, "xx")


def run_and_kill(code, arguments, seconds):
    """Run Python code and kill it after a while; return whether it had ended by itself."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], start_new_session=True)
    try:
        return process.wait(timeout=seconds) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


CALIBRATE = """
import sys
from pathlib import Path
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stages.calibrate import calibrate
from whisper_toolchain.workspace import Workspace
root, folder = map(Path, sys.argv[1:])
workspace = Workspace(root, {"calibration": folder})
calibrate(workspace, ShapePlan.make("tiny.en", "hailo8"), root / "audio" / "registry-sample", 40, 0, report=print)
"""


def test_killed_at_any_point_it_ends_in_the_same_bytes(workspace, tiny_en_bundle, tmp_path):
    def contents(folder):
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "stage.json"}

    began = time.monotonic()
    assert run_and_kill(CALIBRATE, [workspace.root, tmp_path / "whole"], 600)
    whole = time.monotonic() - began
    chance = random.Random(7)
    kills = 0
    for _ in range(5):
        if run_and_kill(CALIBRATE, [workspace.root, tmp_path / "killed"], chance.uniform(0.5, 1.0) * whole):
            break
        kills += 1
    assert kills
    assert run_and_kill(CALIBRATE, [workspace.root, tmp_path / "killed"], 600)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not (tmp_path / "killed.partial").exists()


@given(
    rows=st.integers(1, 4),
    size=st.integers(20, 500),
    count=st.integers(1, 16),
    seed=st.integers(0, 999),
    forbidden=st.booleans(),
)
def test_the_highest_of_each_row_are_those_of_torch(rows, size, count, seed, forbidden):
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(np.stack([random.permutation(size) for _ in range(rows)]).astype(np.float32))
    if forbidden:
        logits[:, random.integers(0, size, size // 30)] = -torch.inf
    values, columns = batched_decoder._top(logits, count)
    expected, at = logits.topk(count)
    assert torch.equal(values, expected)
    assert torch.equal(columns[expected > -torch.inf], at[expected > -torch.inf])
