"""How a bundle is known inside the app: the folder it lies in, and the variant that selects it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from whisper_runtime.backends import hailort, onnxruntime
from whisper_runtime.manifest import Manifest

FOLDER = PurePosixPath("app/whisper_bundles")
"""Below the app's root. Nothing of the app's own is in there, and its downloader never looks there."""

EMULATED_NOTE = "EMULATED with ONNX Runtime, not compiled: does not run on a Hailo device"

OWN_NAME = "-bundle"
"""Behind the variant where the app has a model of its own for it, which stays what it is."""


@dataclass(frozen=True)
class Registration:
    """One bundle in the app.

    Attributes:
        variant: what `--variant` selects it by: the model's, with `OWN_NAME` where the app has its own for that chip.
        arch: what `--hw-arch` selects it by.
        name, version: the bundle's.
        emulated: whether it was made by the emulator.
    """

    variant: str
    arch: str
    name: str
    version: str
    emulated: bool

    @classmethod
    def of(cls, manifest: Manifest, stock: Mapping[str, Collection[str]]) -> "Registration":
        """Name a bundle for an app whose own registry has these architectures for each variant."""
        taken = manifest.arch in stock.get(manifest.variant, ())
        variant = manifest.variant + OWN_NAME if taken else manifest.variant
        return cls(variant, manifest.arch, manifest.name, manifest.version, manifest.emulated)

    @property
    def folder(self) -> PurePosixPath:
        """The bundle's folder, relative to the app's root."""
        return FOLDER / f"{self.name}-{self.version}"

    @property
    def models(self) -> dict[str, str]:
        """The file names of its encoder and decoder. An emulated graph is never called .hef."""
        backend = onnxruntime if self.emulated else hailort
        return {"encoder": backend.ENCODER, "decoder": backend.DECODER}

    @property
    def note(self) -> str:
        """What the app's registry says of it."""
        return f"{self.name} {self.version}" + (f", {EMULATED_NOTE}" if self.emulated else "")
