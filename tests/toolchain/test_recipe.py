"""Recipes: the four that ship, what their patterns mean, and what is refused."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper_toolchain.errors import RecipeError, ToolchainError
from whisper_toolchain.recipe import RECIPES, GraphRecipe, load_recipe
from whisper_toolchain.shape_plan import ARCHITECTURES, VARIANTS

GRAPH = """
calibration_rows = {rows}
clip_percentile = {percentile}
sixteen_bit = {wide}
matmul_correction = {corrected}
"""


PATTERNS = [field.name for field in dataclasses.fields(GraphRecipe)][2:]


def table(rows="8", percentile="99.9", wide='["a.*"]', corrected="[]"):
    others = [f"{name} = []\n" for name in PATTERNS if name not in ("sixteen_bit", "matmul_correction")]
    return GRAPH.format(rows=rows, percentile=percentile, wide=wide, corrected=corrected) + "".join(others)


def graph_recipe(rows=1, percentile=99.0, **patterns):
    """A recipe of the patterns given; those not given match nothing."""
    return GraphRecipe(rows, percentile, **{**dict.fromkeys(PATTERNS, ()), **patterns})


GOOD = f"[encoder]{table()}[decoder]{table(rows='9')}"


@pytest.fixture
def write(tmp_path):
    def call(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return call


def refusal(path, arch="hailo8", error=RecipeError):
    with pytest.raises(error) as caught:
        load_recipe("tiny", arch, path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_there_is_one_recipe_a_variant():
    assert sorted(path.stem for path in RECIPES.glob("*.toml")) == sorted(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_shipped_recipes(variant, arch):
    recipe = load_recipe(variant, arch)
    assert recipe.name == variant
    for block in range(6):
        for part in ("attn.out", "mlp.0", "mlp.2", "mlp.residual"):
            assert recipe.encoder.bits(f"encoder.blocks.{block}.{part}") == 16
        for part in ("attn.query", "attn.key", "attn.value", "attn.context"):
            assert recipe.encoder.bits(f"encoder.blocks.{block}.{part}") == 8
        # 16 bits in the attention help the multilingual models, and are known to fail on hailo10h.
        wide = variant in ("tiny", "base") and arch != "hailo10h"
        assert recipe.encoder.bits(f"encoder.blocks.{block}.attn.scores") == (16 if wide else 8)
    assert recipe.encoder.bits("encoder.conv1") == 8
    assert recipe.encoder.corrected("encoder.blocks.0.attn.context")
    assert recipe.encoder.calibration_rows >= 1
    assert recipe.as_dict()["encoder"]["clip_percentile"] == recipe.encoder.clip_percentile


def test_patterns():
    recipe = graph_recipe(
        sixteen_bit=("encoder.blocks.*.mlp.0", "decoder.*.residual", "x"), matmul_correction=("a.[12].context",)
    )
    assert recipe.bits("encoder.blocks.3.mlp.0") == 16
    assert recipe.bits("encoder.blocks.3.mlp.2") == 8
    assert recipe.bits("encoder.blocks.3.mlp.01") == 8
    assert recipe.bits("decoder.blocks.1.cross_attn.residual") == 16
    assert recipe.bits("x") == 16
    assert recipe.bits("x.y") == 8
    assert recipe.bits("X") == 8
    assert recipe.corrected("a.1.context")
    assert not recipe.corrected("a.3.context")
    assert not recipe.corrected("x")


@given(st.text("ab.", max_size=8))
def test_star_matches_everything_and_nothing_else_is_wide(layer):
    assert graph_recipe(sixteen_bit=("*",)).bits(layer) == 16
    assert graph_recipe().bits(layer) == 8


def test_check_layers_names_the_pattern():
    recipe = graph_recipe(sixteen_bit=("a.*",), matmul_correction=("b",))
    recipe.check_layers(["a.x", "b", "c"], "encoder.onnx")
    for layers, pattern in ((["b"], "a.*"), (["a.x"], "b")):
        with pytest.raises(RecipeError) as caught:
            recipe.check_layers(layers, "encoder.onnx")
        assert str(caught.value) == f"encoder.onnx: '{pattern}' names no layer of the graph"


def test_own_recipe(write):
    recipe = load_recipe("tiny", "hailo8", write(GOOD))
    assert recipe.name == "mine"
    assert recipe.encoder == graph_recipe(8, 99.9, sixteen_bit=("a.*",))
    assert recipe.decoder.calibration_rows == 9


def test_overrides_replace_single_keys_of_one_architecture(write):
    path = write(GOOD + '[arch.hailo10h.decoder]\nsixteen_bit = ["z"]\n[arch.hailo8l.encoder]\ncalibration_rows = 3\n')
    plain, wide, fewer = (load_recipe("tiny", arch, path) for arch in ("hailo8", "hailo10h", "hailo8l"))
    assert plain.decoder.sixteen_bit == ("a.*",)
    assert wide.decoder == graph_recipe(9, 99.9, sixteen_bit=("z",))
    assert wide.encoder == plain.encoder
    assert fewer.encoder == graph_recipe(3, 99.9, sixteen_bit=("a.*",))
    assert fewer.decoder == plain.decoder


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"[encoder]{table()}", "needs the tables [encoder] and [decoder], has ['encoder']"),
        ("", "needs the tables"),
        (GOOD + "[extra]\nx = 1\n", "has ['decoder', 'encoder', 'extra']"),
        ("top = 1\n" + GOOD, "'top'"),
        (GOOD + "[arch.hailo9.encoder]\ncalibration_rows = 1\n", "[arch.hailo9] is not an architecture"),
        (GOOD + "[arch.hailo8.encoder]\nbits = 4\n", "missing or unknown: bits"),
        (GOOD.replace("clip_percentile", "percentile", 1), "missing or unknown: clip_percentile, percentile"),
        (f"[encoder]{table(rows='0')}[decoder]{table()}", "calibration_rows must be a whole number from 1, not 0"),
        (f"[encoder]{table(rows='1.5')}[decoder]{table()}", "calibration_rows must be a whole number from 1, not 1.5"),
        (f"[encoder]{table(rows='true')}[decoder]{table()}", "not True"),
        (f"[encoder]{table(percentile='50.0')}[decoder]{table()}", "above 50.0 and at most 100.0, not 50.0"),
        (f"[encoder]{table(percentile='100.1')}[decoder]{table()}", "not 100.1"),
        (f"[encoder]{table(percentile='nan')}[decoder]{table()}", "not nan"),
        (f"[encoder]{table(percentile='99')}[decoder]{table()}", "not 99"),
        (f"[encoder]{table()}[decoder]{table(wide='[1]')}", "[decoder]: sixteen_bit must be a list of layer patterns"),
        (f"[encoder]{table()}[decoder]{table(corrected=chr(34) + 'a' + chr(34))}", "matmul_correction must be a list"),
    ],
)
def test_malformed(write, text, reason):
    assert reason in refusal(write(text))


@pytest.mark.parametrize(
    "text",
    [
        "arch = 3\n" + GOOD,
        "[arch]\nhailo8 = 3\n" + GOOD,
        "[arch.hailo8]\nencoder = 3\n" + GOOD,
        f"encoder = 3\n[decoder]{table()}",
        GOOD + "[arch.hailo8.encodr]\ncalibration_rows = 1\n",
    ],
)
def test_values_where_tables_belong_and_misspelt_graphs(write, text):
    refusal(write(text))


@pytest.mark.parametrize("text", ["[encoder", "a = \n", "\x00"])
def test_not_toml(write, text):
    assert "not readable as TOML" in refusal(write(text), error=ToolchainError)


def test_missing_file(tmp_path):
    assert "not readable as TOML" in refusal(tmp_path / "none.toml", error=ToolchainError)


VALUES = st.one_of(
    st.integers(-5, 100).map(str),
    st.floats(-10, 200, allow_nan=False).map(repr),
    st.sampled_from(["true", '"text"', "[]", '["a"]', "[1]", "{}", "{a = 1}", "nan", "inf", "1979-05-27"]),
)


@given(
    st.sampled_from(["rows", "percentile", "wide", "corrected"]),
    VALUES,
)
def test_any_value_is_taken_or_refused_in_one_line(tmp_path_factory, key, value):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(f"[encoder]{table(**{key: value})}[decoder]{table()}")
    try:
        recipe = load_recipe("tiny", "hailo8", path)
    except ToolchainError:
        refusal(path, error=ToolchainError)
    else:
        assert recipe.encoder.calibration_rows >= 1
        assert 50 < recipe.encoder.clip_percentile <= 100
        assert all(isinstance(pattern, str) for pattern in recipe.encoder.sixteen_bit)
