"""Install and uninstall: what they leave, what they refuse, and that a kill at any point costs nothing."""

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
from whisper_runtime.errors import BundleError

from integration import changes
from integration.app import App
from integration.changes import STATE, AppFiles
from integration.cli import main
from integration.edits import CLI, GUI, PIPELINE, REGISTRY
from integration.errors import AppError, UnknownLayoutError
from integration.install import MODULE, install, uninstall
from tests.integration.helpers import ignore, make_app, tree


def put(app, bundle, **options):
    return install(app, bundle, **{"emulated": True, "report": ignore, **options})


def refusal(kind, call, *arguments, **options):
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_uninstall_restores_every_byte_and_mode(app_dir, toy_bundle):
    before = tree(app_dir)
    put(app_dir, toy_bundle())
    assert tree(app_dir) != before
    uninstall(app_dir, report=ignore)
    assert tree(app_dir) == before
    assert not (app_dir / STATE).exists()
    assert not (app_dir / "app/whisper_bundles").exists()


def test_install_twice_is_install_once(app_dir, toy_bundle):
    put(app_dir, toy_bundle())
    once = {path: path.stat().st_mtime_ns for path in app_dir.rglob("*")}
    put(app_dir, toy_bundle())
    assert {path: path.stat().st_mtime_ns for path in app_dir.rglob("*")} == once


def test_a_checkout_will_do_for_the_app(app_dir, toy_bundle):
    root = App.find(app_dir).root
    assert App.find(root.parents[2] if root.parts[-3:-1] == ("runtime", "python") else root).root == root


def test_bundles_live_beside_each_other_and_a_second_one_replaces_the_first(app_dir, toy_bundle):
    first = put(app_dir, toy_bundle("tiny.en", "hailo8"))
    other = put(app_dir, toy_bundle("base.en", "hailo8l"))
    own = put(app_dir, toy_bundle("tiny", "hailo8"))
    assert (first.variant, other.variant, own.variant) == ("tiny.en", "base.en", "tiny-bundle")
    lines = []
    second = put(app_dir, toy_bundle("tiny.en", "hailo8", seed=1), report=lines.append)
    assert any("in the place of" in line and first.version in line for line in lines)
    folders = {path.name for path in (app_dir / "app/whisper_bundles").iterdir()}
    assert folders == {Path(item.folder).name for item in (second, other, own)}
    registry = (app_dir / REGISTRY).read_text()
    assert first.version not in registry
    assert all(item.version in registry for item in (second, other, own))
    uninstall(app_dir, report=ignore)
    assert not (app_dir / "app/whisper_bundles").exists()


def test_the_order_of_installs_does_not_matter(tmp_path, toy_bundle):
    apps = [make_app(tmp_path / name, "examples") for name in "ab"]
    bundles = [toy_bundle("tiny.en"), toy_bundle("base.en", "hailo8l")]
    for app, order in zip(apps, (bundles, bundles[::-1]), strict=True):
        for bundle in order:
            put(app, bundle)
    first, second = (tree(app, ours=False) for app in apps)
    assert first == second


def test_stock_models_are_not_touched(examples_app, toy_bundle):
    stock = examples_app / "app/hefs/h8/tiny/tiny-encoder.hef"
    assets = examples_app / "app/decoder_assets/tiny/decoder_tokenization/onnx_add_input_tiny.npy"
    for path in (stock, assets):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"the vendor's")
    before = tree(examples_app)
    lines = []
    put(examples_app, toy_bundle("tiny"), report=lines.append)
    assert stock.read_bytes() == assets.read_bytes() == b"the vendor's"
    assert any("the app's own tiny for hailo8 stays" in line for line in lines)
    uninstall(examples_app, report=ignore)
    assert tree(examples_app) == before


def test_an_emulated_bundle_needs_the_users_word_and_never_looks_like_a_hef(examples_app, toy_bundle):
    before = tree(examples_app)
    assert "EMULATED=1" in refusal(AppError, put, examples_app, toy_bundle(), emulated=False)
    assert tree(examples_app) == before
    put(examples_app, toy_bundle())
    assert "EMULATED" in (examples_app / REGISTRY).read_text()
    assert not list(examples_app.rglob("*.hef"))


def test_a_damaged_bundle_is_refused(examples_app, toy_bundle, tmp_path):
    bundle = Path(shutil.copytree(toy_bundle(), tmp_path / "copy"))
    (bundle / "decoder.emulated.onnx").write_bytes(b"short")
    before = tree(examples_app)
    assert "decoder.emulated.onnx" in refusal(BundleError, put, examples_app, bundle)
    assert tree(examples_app) == before


@pytest.mark.parametrize("path", [CLI, PIPELINE, REGISTRY, GUI])
def test_a_missing_file_is_named(examples_app, toy_bundle, path):
    (examples_app / path).unlink()
    assert path in refusal(UnknownLayoutError, put, examples_app, toy_bundle())


def test_no_app_at_all(tmp_path, toy_bundle):
    assert "no Speech Recognition app" in refusal(UnknownLayoutError, put, tmp_path, toy_bundle())


def test_a_revision_without_that_chip_is_refused(examples_app, toy_bundle):
    cli = examples_app / CLI
    cli.write_text(cli.read_text().replace('"hailo8l", "hailo10h"', '"hailo8l"'))
    assert "knows hailo8, hailo8l" in refusal(AppError, put, examples_app, toy_bundle("tiny", "hailo10h"))


def test_the_revision_whose_downloader_is_a_shell_script(tmp_path, toy_bundle):
    app = make_app(tmp_path, "old")
    (app / "app/download_resources.py").rename(app / "app/download_resources.sh")
    before = tree(app)
    put(app, toy_bundle())
    assert tree(app)["app/download_resources.sh"] == before["app/download_resources.sh"]
    uninstall(app, report=ignore)
    assert tree(app) == before


@pytest.mark.parametrize("call", [lambda app, bundle: put(app, bundle), lambda app, _: uninstall(app, report=ignore)])
def test_what_somebody_else_changed_is_not_touched(app_dir, toy_bundle, call):
    put(app_dir, toy_bundle())
    for path in (PIPELINE, MODULE):
        (app_dir / path).write_text((app_dir / path).read_text() + "# mine\n")
    before = tree(app_dir)
    message = refusal(AppError, call, app_dir, toy_bundle("base.en", "hailo8l"))
    assert PIPELINE in message
    assert MODULE in message
    assert CLI not in message
    assert tree(app_dir) == before


def test_files_that_git_restored_are_installed_and_uninstalled_again(app_dir, toy_bundle):
    before = tree(app_dir)
    vendor = {path: (app_dir / path).read_bytes() for path in (CLI, PIPELINE)}
    put(app_dir, toy_bundle())
    installed = tree(app_dir)
    for path, data in vendor.items():
        (app_dir / path).write_bytes(data)
    put(app_dir, toy_bundle())
    assert tree(app_dir) == installed
    for path, data in vendor.items():
        (app_dir / path).write_bytes(data)
    uninstall(app_dir, report=ignore)
    assert tree(app_dir) == before


def test_a_file_of_the_bundle_that_went_missing_is_put_back(examples_app, toy_bundle):
    put(examples_app, toy_bundle())
    installed = tree(examples_app)
    next((examples_app / "app/whisper_bundles").glob("*/decoder.emulated.onnx")).unlink()
    put(examples_app, toy_bundle())
    assert tree(examples_app) == installed


def test_a_lost_record_is_not_installed_over(examples_app, toy_bundle):
    put(examples_app, toy_bundle())
    shutil.rmtree(examples_app / STATE)
    assert "no record" in refusal(AppError, put, examples_app, toy_bundle())


def test_a_damaged_record_or_backup_is_named(examples_app, toy_bundle):
    put(examples_app, toy_bundle())
    backup = examples_app / STATE / "backup" / PIPELINE
    backup.write_bytes(b"")
    assert str(backup) in refusal(AppError, uninstall, examples_app, report=ignore)
    (examples_app / STATE / "record.json").write_text("{}")
    assert "record.json: damaged" in refusal(AppError, uninstall, examples_app, report=ignore)


def test_a_record_never_leads_outside_of_the_app(examples_app, toy_bundle, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    put(examples_app, toy_bundle())
    path = examples_app / STATE / "record.json"
    record = json.loads(path.read_text())
    record["added"]["../../../../victim"] = "0" * 64
    path.write_text(json.dumps(record))
    refusal(AppError, uninstall, examples_app, report=ignore)
    assert victim.read_text() == "mine"


def test_a_stranger_in_our_folder_is_kept(examples_app, toy_bundle):
    put(examples_app, toy_bundle())
    stranger = examples_app / "app/whisper_bundles/notes.txt"
    stranger.write_text("mine")
    lines = []
    uninstall(examples_app, report=lines.append)
    assert stranger.read_text() == "mine"
    assert any("kept" in line for line in lines)


def test_uninstall_where_nothing_is_installed(examples_app):
    lines = []
    uninstall(examples_app, report=lines.append)
    assert "nothing of ours" in lines[0]


def test_one_at_a_time(examples_app, toy_bundle):
    handle = os.open(examples_app, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert "at work" in refusal(AppError, put, examples_app, toy_bundle())
    finally:
        os.close(handle)


def test_a_full_disk_is_seen_before_anything_is_written(examples_app, toy_bundle, monkeypatch):
    before = tree(examples_app)
    monkeypatch.setattr(changes.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    assert "0 MB free" in refusal(AppError, put, examples_app, toy_bundle())
    assert tree(examples_app) == before


def test_a_folder_that_cannot_be_written_to(examples_app, toy_bundle, monkeypatch, capsys):
    before = tree(examples_app)

    def read_only(self, target):
        raise PermissionError(13, "Permission denied", str(self), None, str(target))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", read_only)  # root may write anywhere, so a mode would not do
        arguments = ["install", "--app", str(examples_app), "--bundle", str(toy_bundle()), "--emulated"]
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Permission denied" in error
    assert "incoming" not in error
    uninstall(examples_app, report=ignore)
    assert tree(examples_app) == before


def test_files_keep_their_owner(examples_app, toy_bundle):
    if os.geteuid() != 0:
        pytest.skip("only root can give files to somebody else, which is what sudo does")
    for path in examples_app.rglob("*"):
        os.chown(path, 1234, 1234)
    put(examples_app, toy_bundle())
    assert (examples_app / PIPELINE).stat().st_uid == 1234
    uninstall(examples_app, report=ignore)
    assert {path.stat().st_uid for path in examples_app.rglob("*.py")} == {1234}


# Kills


@pytest.fixture
def no_sync(monkeypatch):
    """Nothing here outlives the machine, and syncing takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def killed_at(number, act):
    """Run `act` in a child that dies without a word at its number-th step on the disk; False if it had fewer."""
    child = os.fork()
    if child == 0:
        steps = iter(range(10**6))

        def dying(original):
            def step(*arguments, **options):
                if next(steps) == number:
                    os._exit(99)
                return original(*arguments, **options)

            return step

        Path.replace = dying(Path.replace)
        Path.unlink = dying(Path.unlink)
        Path.mkdir = dying(Path.mkdir)
        os.fsync = dying(lambda handle: None)  # it is not the power that fails
        changes.shutil.rmtree = dying(shutil.rmtree)
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 99


def points(act, prepare):
    """Every step at which an action can be killed, each on a fresh app."""
    for number in range(10**4):
        app = prepare(number)
        if not killed_at(number, lambda app=app: act(app)):
            return
        yield app


def test_killed_at_any_point_of_an_install_over_another_one(tmp_path, toy_bundle, no_sync):
    def prepare(number):
        app = make_app(tmp_path / str(number), "examples")
        put(app, toy_bundle("tiny.en"))
        return app

    pristine = tree(make_app(tmp_path / "pristine", "examples"))
    first = tree(prepare("first"), ours=False)
    wanted = prepare("wanted")
    put(wanted, toy_bundle("tiny.en", seed=1))
    second = tree(wanted)
    count = 0
    for app in points(lambda app: put(app, toy_bundle("tiny.en", seed=1)), prepare):
        count += 1
        with AppFiles(app).locked():
            AppFiles(app).undo_or_finish()
        assert tree(app, ours=False) in (first, {k: v for k, v in second.items() if STATE not in k})
        if count % 2:
            put(app, toy_bundle("tiny.en", seed=1))
            assert tree(app) == second
        else:
            uninstall(app, report=ignore)
            assert tree(app) == pristine
        shutil.rmtree(app)
    assert count > 40


@pytest.mark.parametrize("action", ["first install", "uninstall"])
def test_killed_at_any_point_of(tmp_path, toy_bundle, no_sync, action):
    def prepare(number):
        app = make_app(tmp_path / str(number), "hailo-apps")
        if action == "uninstall":
            put(app, toy_bundle())
        return app

    def act(app):
        put(app, toy_bundle()) if action == "first install" else uninstall(app, report=ignore)

    pristine = tree(make_app(tmp_path / "pristine", "hailo-apps"))
    wanted = make_app(tmp_path / "wanted", "hailo-apps")
    put(wanted, toy_bundle())
    installed = tree(wanted)
    count = 0
    for app in points(act, prepare):
        count += 1
        if count % 2:
            put(app, toy_bundle())
            assert tree(app) == installed
        uninstall(app, report=ignore)
        assert tree(app) == pristine
        shutil.rmtree(app)
    assert count > 15


def test_a_change_that_was_cut_off_and_then_edited_is_refused(examples_app, toy_bundle, no_sync):
    number = 20
    while True:  # the first point at which one file is edited and another one not yet
        assert killed_at(number, lambda: put(examples_app, toy_bundle()))
        if AppFiles(examples_app).unfinished and b"bundle_of" in (examples_app / PIPELINE).read_bytes():
            break
        number += 1
    (examples_app / PIPELINE).write_text("mine\n")
    assert PIPELINE in refusal(AppError, put, examples_app, toy_bundle())
    assert (examples_app / PIPELINE).read_text() == "mine\n"
