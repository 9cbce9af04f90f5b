"""Prove that the app transcribes with an installed bundle: its own code, on a real recording, against our runtime."""

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from whisper_runtime.errors import DriverError, NoDeviceError, NotInstalledError
from whisper_runtime.manifest import FILENAME

from integration.app import App
from integration.app_run import LONGEST, AppRun, run_app
from integration.app_venv import app_python
from integration.changes import AppFiles
from integration.clip import Clip, fetched_clip, repeated, shortened, silence
from integration.errors import ValidationError
from integration.install import Report
from integration.registration import Registration

MOST_DIFFERENT = 0.5
"""Share of the runtime's words that the app may have otherwise. Its penalty on repeated tokens and its cleaning cost a
word now and then; a missing positional addition or a wrong start token leave hardly one."""

_BANNER = "EMULATED: this run has no Hailo device; the app gets our emulated hailo_platform for its duration"


@dataclass(frozen=True)
class Project:
    """Where things of this project are.

    Attributes:
        audio: what `make audio` fetched.
        environments: Python environments for the app.
        lock: requirements.lock.
    """

    audio: Path
    environments: Path
    lock: Path


def validate(
    app_folder: Path,
    project: Project,
    *,
    bundle: Path | None,
    clip: Clip | None,
    given_python: Path | None,
    offline: bool,
    report: Report,
) -> None:
    """Run the app on a real recording, on silence, on 0.2 s and on 70 s, and compare.

    Args:
        app_folder: the app, or a checkout of the repository that holds it.
        project: see `Project`.
        bundle: one of the installed bundles; None for the one that was installed last.
        clip: the recording; None for one that was fetched.
        given_python: an interpreter that has the app's requirements; None to make one.
        offline: nothing is downloaded.
        report: takes one line of progress.

    Raises:
        ValidationError: the app fails, hangs, or says something else than the runtime.
        AppError: no such bundle is installed, or the app is not as the install left it.
        WhisperError: the runtime fails.
    """
    app = App.find(app_folder)
    registration = _installed(app, bundle)
    window = int(json.loads((app.root / registration.folder / FILENAME).read_bytes())["model"]["seconds"])
    report(f"app     {app.root}")
    report(f"bundle  {registration.note}")
    if registration.emulated:
        report(_BANNER)
    python = app_python(
        app,
        project.environments,
        project.lock,
        given=given_python,
        emulated=registration.emulated,
        offline=offline,
        report=report,
    )
    clip = clip or fetched_clip(project.audio, window)

    def run(item: Clip) -> AppRun:
        return run_app(app, python, registration, item, window)

    _compare(run(clip), clip, _runtime_text(app, registration, clip), report)
    quiet = run(silence(3.0))
    if quiet.texts or not quiet.no_speech:
        raise ValidationError(f"silence: the app shows {quiet.text!r} instead of saying that nobody speaks")
    report(f"silence of 3 s: no speech, as it should be ({quiet.seconds:.0f} s)")
    short = run(shortened(clip, 0.2))
    report(f"0.2 s: {short.text!r} ({short.seconds:.0f} s)")
    long = run(repeated(clip, 70.0))
    expected = -(-LONGEST // window)
    if len(long.texts) not in (expected, expected - 1):  # it leaves out what is before the first word
        raise ValidationError(f"70 s: {len(long.texts)} windows' texts instead of {expected}: {long.text!r}")
    report(f"70 s: {len(long.texts)} windows of {window} s; the app stops at {LONGEST} s ({long.seconds:.0f} s)")


def _installed(app: App, bundle: Path | None) -> Registration:
    files = AppFiles(app.root)
    record = files.record()
    if files.unfinished:
        raise ValidationError(f"{app.root}: an install was cut off there: run make install-app again")
    if record is None:
        raise ValidationError(f"{app.root}: no bundle is installed: make install-app first")
    files.check_unchanged(record)
    if not files.is_in_place(record):
        raise ValidationError(f"{app.root}: files of the install are missing or undone: run make install-app again")
    if bundle is None:
        return next(item for item in record.bundles if str(item.folder) == record.latest)
    try:
        manifest = json.loads((bundle / FILENAME).read_bytes())
        wanted = (manifest["name"], manifest["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValidationError(f"{bundle}: no bundle") from error
    found = [item for item in record.bundles if (item.name, item.version) == wanted]
    if not found:
        raise ValidationError(f"{app.root}: {' '.join(wanted)} is not installed: make install-app BUNDLE={bundle}")
    return found[0]


def _runtime_text(app: App, registration: Registration, clip: Clip) -> str | None:
    """What our runtime reads; None if the device cannot be had from our own Python."""
    from whisper_runtime.transcriber import Transcriber

    try:
        with Transcriber(app.root / registration.folder) as transcriber:
            return transcriber.text(clip.samples)
    except (NotInstalledError, NoDeviceError, DriverError):
        return None


def _compare(run: AppRun, clip: Clip, runtime: str | None, report: Report) -> None:
    report(f"clip      {clip.name}, {clip.seconds:.1f} s")
    report(f"reference {clip.reference or '(none)'}")
    report(f"runtime   {runtime if runtime is not None else '(this Python has no HailoRT or no device: not compared)'}")
    report(f"app       {run.text} ({run.seconds:.0f} s)")
    truth = runtime if runtime is not None else clip.reference
    if truth is None:
        raise ValidationError("nothing to compare with: give the clip's transcript as TEXT, or HailoRT to our Python")
    differences, share = differing_words(words(run.text), words(truth))
    who = "runtime" if runtime is not None else "reference"
    if share > MOST_DIFFERENT:
        raise ValidationError(f"the app's text is not the {who}'s: {share:.0%} of the words differ: {run.text!r}")
    report(f"the app's words are the {who}'s" + (f" but for: {', '.join(differences)}" if differences else ""))


def words(text: str) -> list[str]:
    """A text's words in lower case, without punctuation."""
    return re.sub(r"[^\w' ]+", " ", text.lower()).split()


def differing_words(found: list[str], expected: list[str]) -> tuple[list[str], float]:
    """Where two texts differ, and which share of the expected words is concerned."""
    matcher = difflib.SequenceMatcher(None, expected, found, autojunk=False)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    shown = [f"'{' '.join(expected[a:b])}' -> '{' '.join(found[c:d])}'" for _, a, b, c, d in changes]
    count = sum(max(b - a, d - c) for _, a, b, c, d in changes)
    return shown, count / max(1, len(expected))
