"""One run of the app's own code on a recording, in bounded time."""

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from integration.app import App
from integration.app_venv import AppPython, environment
from integration.clip import Clip
from integration.errors import ValidationError
from integration.registration import Registration

READY = "Hailo Whisper pipeline initialized."
NO_SPEECH = "No speech detected."
START_SECONDS = 90.0  # torch and transformers are slow to import on a small machine
WINDOW_SECONDS = 30.0
LONGEST = 60  # seconds of a recording that the app reads

_RECORDING = "sampled_audio.wav"  # where the app looks for it, below the current folder
_NO_TEXT = (READY, NO_SPEECH, "New max audio level:")


@dataclass(frozen=True)
class AppRun:
    """What the app printed.

    Attributes:
        texts: one text a window, as the app shows them.
        no_speech: whether it said that it heard none.
        seconds: how long it took.
    """

    texts: list[str]
    no_speech: bool
    seconds: float

    @property
    def text(self) -> str:
        """All windows' texts."""
        return " ".join(self.texts)


def run_app(app: App, python: AppPython, registration: Registration, clip: Clip, window: int) -> AppRun:
    """Run `python3 -m app.app_hailo_whisper --reuse-audio` on a recording.

    The app looks for the recording below the current folder, and leaves logs there. So it runs in a temporary folder
    that links to the app's: a recording of the user's own stays what it is.

    Raises:
        ValidationError: the app fails, or does not end in time.
    """
    windows = -(-min(clip.seconds, LONGEST) // window)
    limit = START_SECONDS + WINDOW_SECONDS * windows
    command = [str(python.executable.absolute()), "-m", "app.app_hailo_whisper"]
    command += ["--hw-arch", registration.arch, "--variant", registration.variant, "--reuse-audio"]
    with tempfile.TemporaryDirectory(prefix="validate-app.") as scratch:
        folder = Path(scratch)
        for entry in app.root.iterdir():
            if entry.name != _RECORDING:
                (folder / entry.name).symlink_to(entry)
        clip.write(folder / _RECORDING)
        began = time.monotonic()
        # In a session of its own, so that a run which hangs is ended with all that it has started.
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(python, app),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise ValidationError(
                f"{clip.name}: the app did not end within {limit:.0f} s: {_last(error.stderr)}"
            ) from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    if process.returncode != 0 or READY not in output:
        raise ValidationError(f"{clip.name}: the app failed (status {process.returncode}): {_last(errors or output)}")
    if "Traceback" in errors:
        raise ValidationError(f"{clip.name}: the app printed a traceback: {_last(errors)}")
    shown = [line.strip() for line in output.partition(READY)[2].splitlines()]
    texts = [line for line in shown if line and not line.startswith(_NO_TEXT)]
    return AppRun(texts, NO_SPEECH in shown, time.monotonic() - began)


def _last(output: str | bytes | None) -> str:
    text = output.decode("utf-8", "replace") if isinstance(output, bytes) else output or ""
    return (text.strip().splitlines() or ["it printed nothing"])[-1][:300]
