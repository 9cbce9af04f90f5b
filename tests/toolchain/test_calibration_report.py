"""What is said about a calibration set: ranges, coverage, warnings, and the page that shows them."""

import numpy as np
import pytest
from whisper_toolchain.calibration import CALIBRATION
from whisper_toolchain.calibration.journal import CutWindow, Done
from whisper_toolchain.calibration.report import render_report
from whisper_toolchain.calibration.statistics import PERCENTILES, measure_set

SLOTS = 8


def sound(recording, speaker="s", samples=16000, peak=0.5, clipped=0):
    return CutWindow(recording, speaker, 0, samples, peak, clipped)


def good_set(rows=20):
    """Recordings of twenty speakers."""
    windows = [sound(f"r{row}", f"s{row}", 16000 * (1 + row % 10)) for row in range(rows)]
    return Done([window.recording for window in windows], windows, {row: [5] * 6 for row in range(rows)})


def write_arrays(folder, rows, filled=SLOTS):
    random = np.random.default_rng(0)
    for name, shape in zip(CALIBRATION.arrays, ((1, 10, 8), (1, 5, 4), (SLOTS, 1, 4)), strict=False):
        np.save(folder / name, random.standard_normal((rows, *shape)).astype(np.float32))
    np.save(folder / CALIBRATION.lengths, np.full(rows, filled, np.int32))


def warnings_of(folder, done, filled=SLOTS):
    write_arrays(folder, len(done.windows), filled)
    return measure_set(folder, CALIBRATION, done, SLOTS).warnings


def test_a_good_set_has_no_warnings(tmp_path):
    assert warnings_of(tmp_path, good_set()) == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda done: done.recordings.append("hush"), "1 recordings are silent and give no window: hush"),
        (lambda done: done.windows.__setitem__(3, sound("r3", "s3", peak=0.001)), "1 of 20 windows are very quiet"),
        (lambda done: done.windows.__setitem__(3, sound("r3", "s3", clipped=50)), "1 of 20 windows are clipped"),
        (lambda done: done.texts.__setitem__(3, []), "the model reads nothing in 1 of 20 windows"),
        (lambda done: done.windows.__setitem__(slice(None), [sound(f"r{n}") for n in range(20)]), "only 1 speakers"),
        (
            lambda done: done.windows.__setitem__(slice(None), [sound(f"r{n}", None) for n in range(20)]),
            "nobody says who speaks",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, says):
    done = good_set()
    change(done)
    (warning,) = warnings_of(tmp_path, done)
    assert says in warning


def test_slots_that_are_never_filled(tmp_path):
    (warning,) = warnings_of(tmp_path, good_set(), filled=5)
    assert warning.startswith("slots 6 to 8 are filled in fewer than 8 rows")


def test_windows_that_are_there_twice(tmp_path):
    write_arrays(tmp_path, 20)
    mels = np.load(tmp_path / CALIBRATION.mel)
    mels[7] = mels[2]
    np.save(tmp_path / CALIBRATION.mel, mels)
    assert measure_set(tmp_path, CALIBRATION, good_set(), SLOTS).warnings == (
        "1 of 20 windows are there before, sample by sample",
    )


def test_ranges_are_those_of_numpy(tmp_path):
    write_arrays(tmp_path, 20, filled=3)
    statistics = measure_set(tmp_path, CALIBRATION, good_set(), SLOTS)
    assert statistics.filled == (20, 20, 20, 0, 0, 0, 0, 0)
    assert statistics.decoder_rows == 20
    for name, tensor in zip(CALIBRATION.arrays, statistics.tensors, strict=False):
        values = np.load(tmp_path / name)
        assert (tensor.least, tensor.greatest) == (values.min(), values.max())
        assert sum(tensor.counts) == values.size
        assert tensor.mean == pytest.approx(values.mean(), abs=1e-6)
        for kept, bounds in zip(PERCENTILES, tensor.ranges, strict=True):
            outside = (100 - kept) / 2
            assert bounds == pytest.approx(tuple(np.percentile(values, (outside, 100 - outside))))


def test_constant_arrays_have_a_page_too(tmp_path):
    write_arrays(tmp_path, 20)
    np.save(tmp_path / CALIBRATION.features, np.ones((20, 1, 5, 4), np.float32))
    page = render_report("t", measure_set(tmp_path, CALIBRATION, good_set(), SLOTS))
    assert b"nan" not in page


def test_the_page_needs_nothing_else_and_escapes_names(tmp_path):
    done = good_set()
    done.recordings.append("<b>&")
    write_arrays(tmp_path, 20)
    statistics = measure_set(tmp_path, CALIBRATION, done, SLOTS)
    page = render_report("set <1>", statistics).decode()
    assert page.encode() == render_report("set <1>", statistics)
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page
    assert page.count("<svg") == 5
    assert "src=" not in page
    assert "href=" not in page
