"""Where things lie below the project's root folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from whisper_toolchain.datasets import Dataset, open_dataset
from whisper_toolchain.errors import StageError
from whisper_toolchain.shape_plan import ShapePlan


@dataclass(frozen=True)
class Workspace:
    """Folders of one checkout.

    Attributes:
        root: the folder that holds `third_party/`, `patches/`, `audio/`, `build/` and `artifacts/`.
        elsewhere: folders of the user's own choice for "checkpoint", "export", "calibration", "compiled" and
            "artifacts".
    """

    root: Path
    elsewhere: Mapping[str, Path] = field(default_factory=dict)

    @property
    def third_party(self) -> Path:
        """Fetched sources and, in `downloads/`, everything else that was fetched."""
        return self.root / "third_party"

    @property
    def downloads(self) -> Path:
        """Files as they came from the network, verified."""
        return self.third_party / "downloads"

    @property
    def whisper(self) -> Path:
        """The patched openai-whisper."""
        return self.third_party / "whisper"

    @property
    def patches(self) -> Path:
        """Our changes to openai-whisper."""
        return self.root / "patches" / "whisper"

    @property
    def audio(self) -> Path:
        """Speech."""
        return self.root / "audio"

    @property
    def artifacts(self) -> Path:
        """Finished bundles."""
        return self.elsewhere.get("artifacts", self.root / "artifacts")

    def checkpoint(self, variant: str) -> Path:
        """The fetch stage's folder."""
        return self.elsewhere.get("checkpoint", self.root / "build" / variant / "checkpoint")

    def export(self, plan: ShapePlan) -> Path:
        """The export stage's folder; architectures with the same shapes share it."""
        return self.elsewhere.get("export", self.root / "build" / plan.shape_name / "export")

    def calibration(self, plan: ShapePlan) -> Path:
        """The calibrate stage's folder; architectures with the same shapes share it."""
        return self.elsewhere.get("calibration", self.root / "build" / plan.shape_name / "calibration")

    def compiled(self, plan: ShapePlan) -> Path:
        """The compile stage's folder."""
        return self.elsewhere.get("compiled", self.root / "build" / plan.bundle_name / "compiled")

    def compiler_work(self, plan: ShapePlan, compiler: str) -> Path:
        """What a compiler can continue from after an interruption."""
        return self.root / "build" / plan.bundle_name / compiler

    def published(self, plan: ShapePlan) -> Path:
        """The bundle stage's folder, with the version that it published."""
        return self.root / "build" / plan.bundle_name / "bundle"

    def demo(self, plan: ShapePlan) -> Path:
        """The demo stage's folder."""
        return self.root / "build" / plan.bundle_name / "demo"

    def bundle(self, plan: ShapePlan) -> Path:
        """The newest bundle of a plan."""
        return self.artifacts / plan.bundle_name / "latest"

    def dataset(self, spec: Path | None, *, keep_missing: bool = False) -> Dataset:
        """Open the speech asked for, or what the fetch stage brought: dev-clean, else the registry sample.

        Args:
            spec: the speech; None for what was fetched.
            keep_missing: give recordings that are listed and not there, too.

        Raises:
            DatasetError: the speech asked for is not usable.
            StageError: none was asked for and none was fetched.
        """
        if spec is not None:
            return open_dataset(spec, keep_missing=keep_missing)
        for candidate in self.fetched_speech():
            if candidate.exists():
                return open_dataset(candidate, keep_missing=keep_missing)
        raise StageError(f"no speech in {self.audio}: run `whisper-toolchain fetch` or give --dataset")

    def fetched_speech(self) -> tuple[Path, ...]:
        """Where fetched speech lies, best first."""
        return (self.audio / "LibriSpeech" / "dev-clean", self.audio / "registry-sample")
