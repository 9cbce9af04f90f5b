"""Install a bundle into the app, and take everything out again."""

from collections.abc import Callable, Mapping
from pathlib import Path

from whisper_runtime.bundle import Bundle
from whisper_runtime.manifest import FILENAME

from integration.app import App, describe
from integration.changes import AppFiles, Change, Record, sha256_of
from integration.edits import CLI, REGISTRY, edit_app, known_architectures, stock_variants
from integration.errors import AppError
from integration.hef_contract import check_hefs
from integration.registration import EMULATED_NOTE, FOLDER, Registration

Report = Callable[[str], None]

MODULE = "app/whisper_bundle.py"
_MODULE_SOURCE = Path(__file__).parent / "added" / "whisper_bundle.py"


def install(app_folder: Path, bundle_folder: Path, *, emulated: bool, report: Report) -> Registration:
    """Make a bundle one of the app's variants. Idempotent; the app's own variants stay as they are.

    A change that an earlier run did not get to the end of is undone first.

    Args:
        app_folder: the app, or a checkout of the repository that holds it.
        bundle_folder: the bundle.
        emulated: whether a bundle that was made by the emulator is welcome.
        report: takes one line of progress.

    Raises:
        UnknownLayoutError: the app is not one that we know.
        AppError: the app was changed by somebody else, cannot be written to, or cannot run this bundle.
        BundleError, HefError: the bundle is damaged.
    """
    app = App.find(app_folder)
    bundle = Bundle.open(bundle_folder, remember=True)
    if bundle.manifest.emulated and not emulated:
        raise AppError(
            f"{bundle.folder}: {EMULATED_NOTE}: build it with Hailo's compiler (COMPILER=dfc), or say EMULATED=1 to "
            "install it for a trial with make validate-app"
        )
    files = AppFiles(app.root)
    with files.locked():
        _tidy(files, report)
        record = files.record()
        vendor = _vendor_files(app, files, record)
        registration = _register(bundle, vendor)
        bundles = _with(registration, record)
        edited = edit_app(vendor, bundles)
        added = {
            MODULE: _MODULE_SOURCE,
            **{f"{registration.folder}/{name}": bundle.folder / name for name in [*bundle.manifest.files, FILENAME]},
        }
        target = Record(
            looks_like=describe(vendor),
            before={path: sha256_of(data) for path, data in sorted(vendor.items())},
            after={path: sha256_of(data) for path, data in sorted(edited.items())},
            added=_added(bundle, registration, bundles, record),
            bundles=bundles,
            latest=str(registration.folder),
        )
        report(f"app     {app.root}")
        report(f"        looks like {target.looks_like}")
        report(f"bundle  {registration.note}")
        if record is not None and target.to_json() == record.to_json() and files.is_in_place(record):
            report("        is installed already; nothing to do")
        else:
            removed = sorted(set(record.added) - set(target.added)) if record else []
            change = Change(edited, added, removed, target)
            files.check_room(change)
            files.apply(change)
            if not files.is_in_place(target):
                raise AppError(f"{app.root}: a file is not what was written to it: check the disk, then install again")
        _tell(registration, bundle, record, report)
    return registration


def uninstall(app_folder: Path, *, report: Report) -> None:
    """Restore the app byte for byte.

    Raises:
        UnknownLayoutError: there is no app.
        AppError: a file that an install has touched was changed since, or cannot be written to.
    """
    app = App.find(app_folder)
    files = AppFiles(app.root)
    with files.locked():
        _tidy(files, report)
        record = files.record()
        if record is None:
            report(f"app     {app.root}: nothing of ours is in it")
            return
        files.check_unchanged(record)
        files.apply(Change(files.originals(record), removed=sorted(record.added)))
        for compiled in sorted((app.root / "app" / "__pycache__").glob("whisper_bundle.*.pyc")):
            compiled.unlink()
        report(f"app     {app.root}: {len(record.before)} files are as the vendor made them")
        for item in record.bundles:
            report(f"        {item.note}: removed")
        if (app.root / FOLDER).exists():
            report(f"        {app.root / FOLDER}: kept, as there is something in it that was not installed")


def _tidy(files: AppFiles, report: Report) -> None:
    done = files.undo_or_finish()
    if done:
        report(f"{files.root}: {done}")


def _vendor_files(app: App, files: AppFiles, record: Record | None) -> dict[str, bytes]:
    """The files that are edited, as the vendor made them."""
    if record is not None:
        files.check_unchanged(record)
        return files.originals(record)
    if (app.root / MODULE).exists() or (app.root / FOLDER).exists():
        raise AppError(
            f"{app.root}: {MODULE} or {FOLDER} is there, but no record of an install: restore the app from its "
            "repository (git checkout) and delete these two"
        )
    return {path: (app.root / path).read_bytes() for path in app.edited}


def _register(bundle: Bundle, vendor: Mapping[str, bytes]) -> Registration:
    arch, architectures = bundle.manifest.arch, known_architectures(vendor[CLI])
    if arch not in architectures:
        raise AppError(
            f"{bundle.folder}: for {arch}, and this revision of the app knows {', '.join(architectures)}: update it"
        )
    registration = Registration.of(bundle.manifest, stock_variants(vendor[REGISTRY]))
    if not bundle.manifest.emulated:
        check_hefs(bundle, registration)
    return registration


def _with(new: Registration, record: Record | None) -> tuple[Registration, ...]:
    """All bundles of the app; one for the same variant and architecture gives way."""
    kept = [item for item in (record.bundles if record else ()) if (item.variant, item.arch) != (new.variant, new.arch)]
    return tuple(sorted([*kept, new], key=lambda item: (item.variant, item.arch)))


def _added(
    bundle: Bundle, new: Registration, bundles: tuple[Registration, ...], record: Record | None
) -> dict[str, str]:
    """Digests of all files that are not the vendor's: this bundle's, and those of the bundles that stay."""
    added = {f"{new.folder}/{name}": entry.sha256 for name, entry in bundle.manifest.files.items()}
    added[f"{new.folder}/{FILENAME}"] = sha256_of((bundle.folder / FILENAME).read_bytes())
    added[MODULE] = sha256_of(_MODULE_SOURCE.read_bytes())
    folders = {str(item.folder) for item in bundles}
    for path, sha256 in (record.added if record else {}).items():
        if str(Path(path).parent) in folders:
            added.setdefault(path, sha256)
    return dict(sorted(added.items()))


def _tell(new: Registration, bundle: Bundle, record: Record | None, report: Report) -> None:
    for item in record.bundles if record else ():
        if (item.variant, item.arch) == (new.variant, new.arch) and item.folder != new.folder:
            report(f"        in the place of {item.note}")
    if new.variant != bundle.manifest.variant:
        report(f"        the app's own {bundle.manifest.variant} for {new.arch} stays what it is")
    report(f"use     python3 -m app.app_hailo_whisper --hw-arch {new.arch} --variant {new.variant}")
