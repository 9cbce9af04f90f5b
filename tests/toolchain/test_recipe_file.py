"""Recipes written and read again."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper_toolchain.recipe import RECIPES, Calibration, Compilation, Emulation, Finetune, GraphRecipe, Recipe
from whisper_toolchain.recipe import load_recipe as load
from whisper_toolchain.recipe_file import recipe_toml
from whisper_toolchain.shape_plan import ARCHITECTURES

COUNT = st.integers(1, 10**6)
PATTERNS = st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=8).map(tuple)
GRAPH = st.builds(
    GraphRecipe,
    PATTERNS,
    *[st.booleans()] * 5,
    st.builds(Calibration, COUNT, COUNT),
    st.builds(Finetune, COUNT, COUNT, st.floats(1e-9, 0.999), st.none() | COUNT),
    st.builds(Compilation, COUNT, st.none() | st.floats(0.001, 1.0), st.booleans()),
    st.builds(Emulation, COUNT, st.floats(50.1, 100.0), PATTERNS),
)


@given(GRAPH, GRAPH, st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]))))
def test_any_recipe_is_read_as_it_was_written(tmp_path_factory, encoder, decoder, comment):
    path = tmp_path_factory.mktemp("recipe") / "own.toml"
    recipe = Recipe("own", encoder, decoder)
    path.write_text(recipe_toml(recipe, comment), encoding="utf-8")
    assert load("tiny", "hailo8", path) == recipe


@pytest.mark.parametrize("variant", sorted(path.stem for path in RECIPES.glob("*.toml")))
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_recipes_we_ship_with_an_architectures_overrides(variant, arch, tmp_path):
    recipe = load(variant, arch)
    path = tmp_path / "own.toml"
    path.write_text(recipe_toml(recipe, ["for a test"]), encoding="utf-8")
    assert load(variant, arch, path) == dataclasses.replace(recipe, name="own")
