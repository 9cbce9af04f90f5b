"""What is said of two evaluations."""

import json

import pytest
from whisper_runtime.evaluation.metrics import compare, difference
from whisper_toolchain.cli import main
from whisper_toolchain.evaluation.comparison import comparison

from tests.toolchain.evaluation_results import SAID, clip, result, rung, toy_result


def test_nothing_changed():
    text = comparison(toy_result(), toy_result())
    assert "are the same" in text
    assert "warning" not in text
    assert "emulated+float: 0 recordings better in B, 0 worse, 0 as many errors in another text" in text


def test_what_differs_and_who_came_out_better():
    first = result([rung("float", [clip("c0", SAID[0], "one"), clip("c1", SAID[1], SAID[1])])])
    second = result(
        [rung("float", [clip("c0", SAID[0], SAID[0]), clip("c1", SAID[1], "five six seven ate")])],
        versions={"numpy": "3", "jiwer": "4"},
        git_revision=None,
    )
    text = comparison(first, second)
    assert "differs: versions.numpy: 2 -> 3" in text
    assert "differs: versions.jiwer: none -> 4" in text
    assert "differs: git_revision: abc -> none" in text
    assert "better: c0: errors 3 -> 0, words 4" in text
    assert "worse: c1: errors 0 -> 1, words 4\n    said  five six seven eight\n    A     five six seven eight" in text
    found = difference(
        [compare(SAID[0], SAID[0], str), compare(SAID[1], "five six seven ate", str)],
        [compare(SAID[0], "one", str), compare(SAID[1], SAID[1], str)],
    )
    assert f"   37.50   12.50  {found.points:+.2f}  {found.low:+.2f} to {found.high:+.2f} (p {found.p:.2f})" in text


def test_other_speech_is_compared_where_it_is_the_same():
    first, second = toy_result(), toy_result()
    second["dataset"]["digest"] = "other"
    second["normaliser"] = "another"
    for each in second["rungs"][:3]:
        each["clips"][1]["audio"] = "another file with the same id"
    del second["rungs"][1]
    text = comparison(first, second, ["float", "stock"])
    assert "warning: A and B are of different speech" in text
    assert "warning: language or normaliser differ" in text
    assert "stock                1    0.00    0.00" in text
    assert "float           was measured in A only" in text
    assert "float: not measured in both" in text


def test_nothing_in_common():
    first, second = toy_result(), toy_result()
    for each in second["rungs"][0]["clips"]:
        each["id"] += "x"
    assert "stock                0  no words in common" in comparison(first, second)


def test_a_transcript_does_not_steer_the_terminal():
    texts = (SAID[0], "\x1b[2J\x07\ngone")
    made = [result([rung("float", [clip("c0", SAID[0], text)])]) for text in texts]
    assert "\x1b" not in comparison(*made)
    assert "    B     \N{REPLACEMENT CHARACTER}[2J" in comparison(*made)


def test_the_commands(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(toy_result()))
    (tmp_path / "bad.json").write_text('{"schema": 7, "rungs": []}')
    a, b, bad = (str(tmp_path / f"{name}.json") for name in ("a", "b", "bad"))
    assert main(["evaluate", "--compare", a, b]) == 0
    assert capsys.readouterr().out == comparison(toy_result(), toy_result()) + "\n"
    assert main(["evaluate", "--compare", a, bad]) == 1
    assert capsys.readouterr().err == f"whisper-toolchain: {bad}: schema '7', this toolchain reads 1: evaluate again\n"
    assert main(["evaluate", "--compare", a, b, "--rungs", "float"]) == 0
    assert "\nfloat: 0 recordings better" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--variant", "tiny"])
    assert stopped.value.code == 2
    assert "--variant and --arch are required" in capsys.readouterr().err
