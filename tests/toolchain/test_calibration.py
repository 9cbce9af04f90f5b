"""Calibration sets: arrays written row by row, recordings put aside, windows planned."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from whisper_runtime.audio import load_audio
from whisper_runtime.windows import cut_windows
from whisper_toolchain.calibration import (
    CALIBRATION,
    HOLDOUT,
    HOLDOUT_WINDOWS,
    ArrayWriter,
    plan_windows,
    split_holdout,
)
from whisper_toolchain.datasets import Utterance
from whisper_toolchain.errors import DatasetError

# Arrays


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple),
    st.sampled_from([np.float32, np.int32, np.float16]),
    st.integers(0, 99),
)
def test_written_row_by_row_is_what_np_save_writes(tmp_path_factory, shape, dtype, seed):
    array = (np.random.default_rng(seed).standard_normal(shape) * 100).astype(dtype)
    path = tmp_path_factory.getbasetemp() / "rows.npy"
    with ArrayWriter(path, shape, dtype) as writer:
        for row in array:
            writer.append(np.asarray(row))
    saved = io.BytesIO()
    np.save(saved, array)
    assert path.read_bytes() == saved.getvalue()
    loaded = np.load(path, allow_pickle=False)
    assert loaded.dtype == dtype
    assert np.array_equal(loaded, array)


def test_rows_may_be_views(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    with ArrayWriter(tmp_path / "a.npy", (2, 4, 3), np.float32) as writer:
        for row in array:
            writer.append(row.T)
    assert np.array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), array.transpose(0, 2, 1))


@pytest.mark.parametrize(
    "row",
    [np.zeros((4, 3), np.float32), np.zeros((3, 4), np.float64), np.zeros((1, 3, 4), np.float32), np.zeros(12, "f4")],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path, row):
    with (
        pytest.raises(ValueError, match=r"row 0: .* does not fit"),
        ArrayWriter(tmp_path / "a.npy", (1, 3, 4), np.float32) as writer,
    ):
        writer.append(row)


def test_too_many_and_too_few_rows_are_refused(tmp_path):
    row = np.zeros(3, np.float32)
    with ArrayWriter(tmp_path / "a.npy", (1, 3), np.float32) as writer:
        writer.append(row)
        with pytest.raises(ValueError, match=r"row 1: .* does not fit"):
            writer.append(row)
    with (
        pytest.raises(ValueError, match="1 rows written, 2 announced"),
        ArrayWriter(tmp_path / "b.npy", (2, 3), np.float32) as writer,
    ):
        writer.append(row)


def test_an_error_inside_is_not_hidden(tmp_path):
    with pytest.raises(KeyError), ArrayWriter(tmp_path / "a.npy", (2, 3), np.float32):
        raise KeyError


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


# Windows


@pytest.fixture
def recordings(tmp_path):
    """Noise of 1, 5, 2 and 3 seconds."""
    items = []
    for number, seconds in enumerate((1, 5, 2, 3)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(16000 * seconds), 16000)
        items.append(Utterance(f"id-{number}", path, None, None))
    return items


def test_windows_are_cut_as_the_runtime_cuts(recordings):
    planned = plan_windows(recordings, 2, 1000)
    expected = [
        (item, window.start, len(window.samples))
        for item in recordings
        for window in cut_windows([load_audio(item.path)], 2)
    ]
    assert [(window.utterance, window.start, window.length) for window in planned] == expected
    assert len(planned) > len(recordings)
    assert sum(window.length for window in planned) == 11 * 16000


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_a_limit_gives_the_first_windows(recordings, limit):
    assert plan_windows(recordings, 2, limit) == plan_windows(recordings, 2, 1000)[:limit]


def test_no_recording_is_read_beyond_the_limit(recordings):
    recordings[1] = Utterance("id-1", Path("/there/is/none.wav"), None, None)
    (window,) = plan_windows(recordings, 2, 1)
    assert (window.utterance.id, window.start, window.length) == ("id-0", 0, 16000)


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
        assert np.array_equal(embeddings[:, :2], np.broadcast_to(embeddings[0, :2], (count, 2, 1, 384)))  # the prompt
    assert results["count"] == 16
    assert len(set(results["holdout"])) == len(results["holdout"]) > 0
