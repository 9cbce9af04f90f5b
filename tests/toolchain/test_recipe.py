"""Recipes: the four that ship, what their patterns mean, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper_toolchain.errors import RecipeError, ToolchainError
from whisper_toolchain.recipe import RECIPES, load_recipe
from whisper_toolchain.shape_plan import ARCHITECTURES, VARIANTS
from whisper_toolchain.toml import tomllib

SETTINGS = {
    "sixteen_bit": '["a.*"]',
    "sixteen_bit_outputs": "false",
    "matmul_equalization": "true",
    "matmul_correction": "false",
    "separate_additions": "true",
    "layer_norm_decomposition": "false",
    "calibration": "{ rows = 8, batch = 4 }",
    "finetune": "{ rows = 16, epochs = 2, learning_rate = 1e-5 }",
    "compilation": "{}",
    "emulator": "{ rows = 8, clip_percentile = 99.9 }",
}


def table(**settings):
    return "\n" + "".join(f"{key} = {value}\n" for key, value in {**SETTINGS, **settings}.items())


GOOD = f"[encoder]{table()}[decoder]{table(sixteen_bit='[]')}"


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
    """What every recipe has; the lists as a whole are checked in test_model_script.py."""
    recipe = load_recipe(variant, arch)
    assert recipe.name == variant
    for block in range(6):
        for part in ("attn.out", "mlp.0", "mlp.2", "mlp.residual"):
            assert recipe.encoder.bits(f"encoder.blocks.{block}.{part}") == 16
        for part in ("attn.query", "attn.key", "attn.value", "attn.scores", "attn.context"):
            assert recipe.encoder.bits(f"encoder.blocks.{block}.{part}") == 8
    assert recipe.encoder.bits("encoder.conv1") == recipe.encoder.bits("encoder.positional") == 8
    assert recipe.encoder.matmul_equalization
    assert recipe.encoder.matmul_correction
    assert recipe.encoder.separate_additions
    assert not recipe.decoder.matmul_equalization
    # FACTS section 2: tiny and base on hailo10h, the decoder of tiny.en everywhere
    decomposed = arch == "hailo10h" and variant in ("tiny", "base")
    assert recipe.encoder.layer_norm_decomposition == decomposed
    assert recipe.decoder.layer_norm_decomposition == (decomposed or variant == "tiny.en")
    encoder, decoder = recipe.as_dict()["encoder"], recipe.as_dict()["decoder"]
    tiny = variant.startswith("tiny")
    assert encoder["calibration"] == {"rows": 1024 if tiny else 512, "batch": 8}
    assert decoder["calibration"] == {"rows": 128 if tiny else 256, "batch": 4}
    assert (encoder["finetune"]["rows"], encoder["finetune"]["epochs"]) == ((3340, 6) if tiny else (2048, 4))
    assert (decoder["finetune"]["rows"], decoder["finetune"]["epochs"]) == (1024, 4)


def test_patterns(write):
    patterns = '["encoder.blocks.*.mlp.0", "decoder.*.residual", "a.[12].b", "x"]'
    recipe = load_recipe("tiny", "hailo8", write(GOOD.replace('["a.*"]', patterns))).encoder
    assert recipe.bits("encoder.blocks.3.mlp.0") == 16
    assert recipe.bits("encoder.blocks.3.mlp.2") == 8
    assert recipe.bits("encoder.blocks.3.mlp.01") == 8
    assert recipe.bits("decoder.blocks.1.cross_attn.residual") == 16
    assert recipe.bits("a.2.b") == 16
    assert recipe.bits("a.3.b") == 8
    assert recipe.bits("x") == 16
    assert recipe.bits("x.y") == 8
    assert recipe.bits("X") == 8


def test_layers_that_only_the_emulator_widens(write):
    text = GOOD.replace("clip_percentile = 99.9 }", 'clip_percentile = 99.9, sixteen_bit = ["b"] }')
    recipe = load_recipe("tiny", "hailo8", write(text)).encoder
    assert (recipe.bits("a.x"), recipe.emulated_bits("a.x")) == (16, 16)
    assert (recipe.bits("b"), recipe.emulated_bits("b")) == (8, 16)
    assert (recipe.bits("c"), recipe.emulated_bits("c")) == (8, 8)


@given(st.text("ab.", max_size=8))
def test_star_matches_everything_and_nothing_else_is_wide(tmp_path_factory, layer):
    path = tmp_path_factory.getbasetemp() / "star.toml"
    path.write_text(GOOD.replace('["a.*"]', '["*"]'))
    recipe = load_recipe("tiny", "hailo8", path)
    assert recipe.encoder.bits(layer) == 16
    assert recipe.decoder.bits(layer) == 8


def test_check_layers_names_every_unknown_pattern(write):
    recipe = load_recipe("tiny", "hailo8", write(GOOD.replace('["a.*"]', '["a.*", "b"]'))).encoder
    recipe.check_layers(["a.x", "b", "c"], "encoder.onnx")
    for layers, patterns in ((["b"], "'a.*'"), (["a.x"], "'b'"), ([], "'a.*', 'b'")):
        with pytest.raises(RecipeError) as caught:
            recipe.check_layers(layers, "encoder.onnx")
        assert (
            str(caught.value)
            == f"encoder.onnx: {patterns}: names no layer of the graph: correct sixteen_bit in the recipe"
        )


@pytest.mark.parametrize("part", ["scores", "softmax", "context"])
def test_sixteen_bits_in_the_attention_are_refused_on_hailo10h(write, part):
    recipe = load_recipe("tiny", "hailo8", write(GOOD.replace('["a.*"]', f'["*.{part}"]'))).encoder
    layers = ["encoder.blocks.0.attn.query", f"encoder.blocks.0.attn.{part}"]
    recipe.check_architecture(layers, "hailo8", "encoder")
    with pytest.raises(RecipeError, match=f"encoder: encoder.blocks.0.attn.{part}: 16 bits inside an attention"):
        recipe.check_architecture(layers, "hailo10h", "encoder")


def test_own_recipe(write):
    recipe = load_recipe("tiny", "hailo8", write(GOOD))
    assert recipe.name == "mine"
    assert recipe.encoder.sixteen_bit == ("a.*",)
    assert recipe.decoder.sixteen_bit == ()
    assert recipe.encoder.finetune.batch is None
    assert recipe.encoder.compilation.max_utilization is None


def test_overrides_replace_single_keys_of_one_architecture(write):
    path = write(
        GOOD + '[arch.hailo10h.decoder]\nsixteen_bit = ["z"]\n'
        "[arch.hailo8l.encoder]\ncalibration = { rows = 3, batch = 1 }\n"
    )
    plain, wide, fewer = (load_recipe("tiny", arch, path) for arch in ("hailo8", "hailo10h", "hailo8l"))
    assert plain.decoder.sixteen_bit == ()
    assert wide.decoder.sixteen_bit == ("z",)
    assert wide.encoder == plain.encoder
    assert fewer.encoder.calibration.rows == 3
    assert fewer.encoder.finetune == plain.encoder.finetune
    assert fewer.decoder == plain.decoder


def with_setting(key, value):
    return f"[encoder]{table(**{key: value})}[decoder]{table()}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"[encoder]{table()}", "needs the tables [encoder] and [decoder], has ['encoder']"),
        ("", "needs the tables"),
        (GOOD + "[extra]\nx = 1\n", "has ['decoder', 'encoder', 'extra']"),
        ("top = 1\n" + GOOD, "'top'"),
        (GOOD + "[arch.hailo9.encoder]\nx = 1\n", "[arch.hailo9] is not an architecture"),
        (GOOD + "[arch.hailo8.encoder]\nbits = 4\n", "missing or unknown: bits"),
        (GOOD.replace("matmul_correction", "correction", 1), "missing or unknown: correction, matmul_correction"),
        (with_setting("sixteen_bit", "[1]"), "[encoder] sixteen_bit: must be a list of layer patterns"),
        (with_setting("sixteen_bit", '"a"'), "[encoder] sixteen_bit: must be a list of layer patterns"),
        (with_setting("matmul_correction", "1"), "[encoder] matmul_correction: must be true or false, not 1"),
        (with_setting("calibration", "3"), "[encoder] calibration: must be a table"),
        (with_setting("calibration", "{ rows = 3 }"), "[encoder] calibration: missing or unknown: batch"),
        (with_setting("calibration", "{ rows = 0, batch = 1 }"), "calibration: rows and batch must be at least 1"),
        (with_setting("calibration", "{ rows = true, batch = 1 }"), "rows: must be a whole number, not True"),
        (with_setting("calibration", "{ rows = 1.5, batch = 1 }"), "rows: must be a whole number, not 1.5"),
        (
            with_setting("finetune", "{ rows = 1, epochs = 0, learning_rate = 1e-5 }"),
            "finetune: rows, epochs and batch must be at least 1",
        ),
        (
            with_setting("finetune", "{ rows = 1, epochs = 1, learning_rate = 1.0 }"),
            "learning_rate must be between 0 and 1",
        ),
        (
            with_setting("finetune", "{ rows = 1, epochs = 1, learning_rate = 1 }"),
            "learning_rate: must be a number with a point, not 1",
        ),
        (with_setting("compilation", "{ max_utilization = 1.5 }"), "max_utilization must be above 0 and at most 1"),
        (with_setting("compilation", "{ optimize_for_batch = 0 }"), "optimize_for_batch must be at least 1"),
        (with_setting("emulator", "{ rows = 1, clip_percentile = 50.0 }"), "above 50 and at most 100"),
        (with_setting("emulator", "{ rows = 1, clip_percentile = nan }"), "above 50 and at most 100"),
        (with_setting("emulator", "{ rows = 0, clip_percentile = 99.0 }"), "rows must be at least 1"),
        (with_setting("emulator", "{ rows = 1, clip_percentile = 99 }"), "must be a number with a point, not 99"),
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
        GOOD + "[arch.hailo8.encodr]\nsixteen_bit = []\n",
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


@given(st.sampled_from(sorted(SETTINGS)), VALUES)
def test_any_value_is_taken_or_refused_in_one_line(tmp_path_factory, key, value):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(with_setting(key, value))
    try:
        recipe = load_recipe("tiny", "hailo8", path)
    except ToolchainError:
        refusal(path, error=ToolchainError)
    else:
        written = tomllib.loads(f"x = {value}")["x"]
        kept = recipe.as_dict()["encoder"][key]
        assert kept == (
            tuple(written)
            if isinstance(written, list)
            else {**kept, **written}
            if isinstance(written, dict)
            else written
        )
