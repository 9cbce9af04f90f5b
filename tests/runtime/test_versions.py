"""Which versions of the vendor's tools fit together."""

import pytest
from whisper_runtime.versions import (
    dfc_fits_arch,
    dfc_for_arch,
    hailort_for_dfc,
    hailort_major_for_arch,
    hef_runs_on,
    parse_version,
)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("4.20.0", (4, 20, 0)),
        ("v3.33", (3, 33, 0)),
        ("5.1.0+local", (5, 1, 0)),
        ("3.31.0.dev2", (3, 31, 0)),
        (" 4.9.1\n", (4, 9, 1)),
        ("2.0rc1", (2, 0, 0)),
    ],
)
def test_a_version_is_its_numbers(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "4", "four.two", "x4.2"])
def test_what_is_no_version_is_named(text):
    with pytest.raises(ValueError, match="not a version"):
        parse_version(text)


@pytest.mark.parametrize(
    ("dfc", "hailort"),
    [
        ("3.30.0", "4.20"),
        ("3.31.0", "4.21"),
        ("3.32.0", "4.22"),
        ("3.33.1", "4.23"),
        ("5.0.0", "5.0"),
        ("5.1.0", "5.1"),
        ("5.2.0", "5.2"),
        ("3.29.0", None),
        ("3.99.0", None),
        ("4.0.0", None),
    ],
)
def test_each_dfc_has_its_hailort(dfc, hailort):
    assert hailort_for_dfc(dfc) == hailort


@pytest.mark.parametrize(
    ("dfc", "fitting"),
    [
        ("3.30.0", set()),
        ("3.31.0", {"hailo8", "hailo8l", "hailo8r"}),
        ("3.33.0", {"hailo8", "hailo8l", "hailo8r"}),
        ("5.0.0", {"hailo10h", "hailo15h"}),
        ("5.2.1", {"hailo10h", "hailo15h"}),
        ("4.0.0", set()),
        ("6.0.0", set()),
    ],
)
def test_a_dfc_compiles_for_one_family(dfc, fitting):
    assert {arch for arch in ("hailo8", "hailo8l", "hailo8r", "hailo10h", "hailo15h") if dfc_fits_arch(dfc, arch)} == (
        fitting
    )


def test_messages_say_which_dfc_and_hailort_an_architecture_needs():
    assert dfc_for_arch("hailo8l") == "3.x, from 3.31 on"
    assert dfc_for_arch("hailo10h") == "5.x"
    assert hailort_major_for_arch("hailo8") == 4
    assert hailort_major_for_arch("hailo10h") == 5


@pytest.mark.parametrize("ask", [dfc_for_arch, hailort_major_for_arch, lambda arch: dfc_fits_arch("3.33.0", arch)])
def test_an_unknown_architecture_is_named(ask):
    with pytest.raises(ValueError, match=r"'hailo9'.*hailo8, hailo8l"):
        ask("hailo9")


@pytest.mark.parametrize(
    ("device", "runs"),
    [
        ("hailo8", {"hailo8", "hailo8r", "hailo8l"}),
        ("hailo8l", {"hailo8l"}),
        ("hailo10h", {"hailo10h", "hailo15h"}),
    ],
)
def test_the_smaller_chips_hef_runs_on_the_larger_and_not_the_reverse(device, runs):
    assert {hef for hef in ("hailo8", "hailo8r", "hailo8l", "hailo10h", "hailo15h") if hef_runs_on(hef, device)} == runs


def test_an_unknown_device_is_named():
    with pytest.raises(ValueError, match="'hailo12l'"):
        hef_runs_on("hailo8", "hailo12l")
