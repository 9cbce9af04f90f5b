"""Fixtures of the tests of an install: the app, and toy bundles."""

import pytest

from tests.integration import toy_bundle as toy
from tests.integration.helpers import LAYOUTS, make_app


@pytest.fixture(params=LAYOUTS)
def app_dir(request, tmp_path):
    """The app in every layout."""
    return make_app(tmp_path / "repository", request.param)


@pytest.fixture
def examples_app(tmp_path):
    """The app in the first layout, for what does not depend on it."""
    return make_app(tmp_path / "repository", "examples")


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory, whisper_assets):
    """Gives an emulated toy bundle by variant, architecture and seed."""
    made = {}

    def get(variant="tiny.en", arch="hailo8", seed=0):
        if (variant, arch, seed) not in made:
            folder = tmp_path_factory.mktemp("bundle") / "bundle"
            made[variant, arch, seed] = toy.write_toy_bundle(folder, whisper_assets, variant, arch, seed=seed)
        return made[variant, arch, seed]

    return get


@pytest.fixture
def compiled_toy_bundle(tmp_path, whisper_assets, fake_vendor_path):
    """Writes a toy bundle that the strict fake of HailoRT runs."""
    import hef_file

    def write(variant="tiny.en", arch="hailo8"):
        return toy.write_toy_bundle(tmp_path / f"{variant}-{arch}", whisper_assets, variant, arch, hef_file=hef_file)

    return write
