"""STAND-IN for `sounddevice` where PortAudio is missing: can be imported, and records nothing.

The app imports it even when it transcribes a recording. For one run of `make validate-app`; never installed.
"""


class InputStream:
    """No microphone."""

    def __init__(self, *arguments: object, **options: object) -> None:
        raise OSError("PortAudio is missing on this machine, so nothing can be recorded")
