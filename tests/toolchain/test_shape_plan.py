"""The table of shapes, its overrides, and everything that it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper_toolchain.errors import ShapePlanError
from whisper_toolchain.shape_plan import ARCHITECTURES, DIMENSIONS, VARIANTS, ShapePlan

TABLE = {
    ("tiny", "hailo8"): (10, 32),
    ("tiny", "hailo8l"): (10, 32),
    ("tiny", "hailo10h"): (10, 32),
    ("tiny.en", "hailo8"): (10, 32),
    ("tiny.en", "hailo8l"): (10, 32),
    ("tiny.en", "hailo10h"): (10, 32),
    ("base", "hailo8"): (5, 24),
    ("base", "hailo8l"): (5, 24),
    ("base", "hailo10h"): (10, 64),
    ("base.en", "hailo8"): (5, 24),
    ("base.en", "hailo8l"): (5, 24),
    ("base.en", "hailo10h"): (10, 64),
}


def refusal(*arguments, **overrides):
    with pytest.raises(ShapePlanError) as caught:
        ShapePlan.make(*arguments, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_table_covers_every_combination():
    assert set(TABLE) == {(variant, arch) for variant in VARIANTS for arch in ARCHITECTURES}


@pytest.mark.parametrize(("variant", "arch"), TABLE)
def test_defaults(variant, arch):
    plan = ShapePlan.make(variant, arch)
    assert (plan.seconds, plan.sequence) == TABLE[variant, arch]
    assert (plan.variant, plan.arch, plan.dims) == (variant, arch, DIMENSIONS[variant])


@pytest.mark.parametrize(
    ("variant", "vocabulary", "state", "heads", "layers"),
    [
        ("tiny", 51865, 384, 6, 4),
        ("tiny.en", 51864, 384, 6, 4),
        ("base", 51865, 512, 8, 6),
        ("base.en", 51864, 512, 8, 6),
    ],
)
def test_dimensions_are_whispers(variant, vocabulary, state, heads, layers):
    assert DIMENSIONS[variant].as_dict() == {
        "n_mels": 80,
        "n_audio_ctx": 1500,
        "n_audio_state": state,
        "n_audio_head": heads,
        "n_audio_layer": layers,
        "n_vocab": vocabulary,
        "n_text_ctx": 448,
        "n_text_state": state,
        "n_text_head": heads,
        "n_text_layer": layers,
    }
    assert DIMENSIONS[variant].multilingual == (not variant.endswith(".en"))


def test_each_override_alone_and_both():
    seconds = ShapePlan.make("tiny", "hailo8", seconds=5)
    assert (seconds.seconds, seconds.sequence) == (5, 32)
    sequence = ShapePlan.make("base", "hailo10h", sequence=24)
    assert (sequence.seconds, sequence.sequence) == (10, 24)
    both = ShapePlan.make("base.en", "hailo8l", 3, 48)
    assert (both.seconds, both.sequence) == (3, 48)


@given(
    st.sampled_from(("tiny", "tiny.en")),
    st.sampled_from(ARCHITECTURES),
    st.integers(1, 30),
    st.integers(8, 448),
)
def test_derived_shapes_and_names(variant, arch, seconds, sequence):
    plan = ShapePlan.make(variant, arch, seconds, sequence)
    assert plan.mel_frames == 100 * seconds
    assert plan.feature_frames == 50 * seconds
    assert plan.state == plan.dims.n_text_state == plan.dims.n_audio_state
    assert plan.shape_name == f"{variant}-{seconds}s-seq{sequence}"
    assert plan.bundle_name == f"whisper-{variant}-{seconds}s-seq{sequence}-{arch}"


@pytest.mark.parametrize(
    ("variant", "parts"),
    [("tiny", (12966, 12966, 12966, 12967)), ("tiny.en", (12966,) * 4)],
)
def test_vocabulary_parts(variant, parts):
    assert ShapePlan.make(variant, "hailo8").vocabulary_parts == parts
    assert sum(parts) == DIMENSIONS[variant].n_vocab


def test_names():
    assert ShapePlan.make("tiny", "hailo8").bundle_name == "whisper-tiny-10s-seq32-hailo8"
    assert ShapePlan.make("base.en", "hailo10h").bundle_name == "whisper-base.en-10s-seq64-hailo10h"
    assert ShapePlan.make("base", "hailo8l").shape_name == "base-5s-seq24"


def test_architectures_of_equal_shapes_share_a_shape_name():
    assert ShapePlan.make("tiny", "hailo8").shape_name == ShapePlan.make("tiny", "hailo10h").shape_name


@pytest.mark.parametrize("variant", ["small", "", "Tiny", "tiny.de"])
def test_unknown_variant(variant):
    message = refusal(variant, "hailo8")
    assert f"unknown variant '{variant}'" in message
    assert all(known in message for known in VARIANTS)


@pytest.mark.parametrize("arch", ["hailo15h", "", "Hailo8"])
def test_unknown_architecture(arch):
    message = refusal("tiny", arch)
    assert f"unknown architecture '{arch}'" in message
    assert all(known in message for known in ARCHITECTURES)


@pytest.mark.parametrize("seconds", [0, -1, 31, 10**9])
@pytest.mark.parametrize("variant", VARIANTS)
def test_window_that_the_encoder_does_not_know(variant, seconds):
    assert refusal(variant, "hailo10h", seconds=seconds).startswith(f"window of {seconds} s: ")


@pytest.mark.parametrize("sequence", [0, -3, 7, 449])
def test_sequence_without_room_or_beyond_the_context(sequence):
    message = refusal("tiny", "hailo8", sequence=sequence)
    assert message.startswith(f"sequence of {sequence}: use 8 to 448")


@pytest.mark.parametrize("sequence", [8, 448])
def test_sequence_at_its_limits(sequence):
    assert ShapePlan.make("tiny", "hailo8", sequence=sequence).sequence == sequence


@pytest.mark.parametrize("variant", ["base", "base.en"])
@pytest.mark.parametrize("arch", ["hailo8", "hailo8l"])
@pytest.mark.parametrize("seconds", [6, 10, 30])
def test_long_windows_of_base_do_not_compile_for_hailo8(variant, arch, seconds):
    message = refusal(variant, arch, seconds=seconds)
    assert message.startswith(f"{variant} with a {seconds} s window does not compile for {arch}")
    assert "SECONDS=5" in message
    assert "ARCH=hailo10h" in message


@pytest.mark.parametrize(("variant", "arch"), [("base", "hailo10h"), ("tiny", "hailo8"), ("tiny.en", "hailo8l")])
def test_long_windows_are_allowed_elsewhere(variant, arch):
    assert ShapePlan.make(variant, arch, seconds=30).feature_frames == 1500
