"""A bundle on disk: one folder with a manifest, verified before anything in it is used."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisper_runtime import manifest as manifest_format
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import BundleError
from whisper_runtime.manifest import Manifest
from whisper_runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        folder: the resolved folder (`latest` is followed once, so a later build does not mix in).
        manifest: its checked manifest.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> "Bundle":
        """Read and verify a bundle: every file is there with its size and sha256, and nothing else is.

        Args:
            folder: the bundle's folder, or a link to it such as `artifacts/<name>/latest`.

        Raises:
            BundleError: no bundle there, a file missing, changed or too many, or an unreadable manifest.
        """
        bundle = cls.open_unverified(folder)
        for name, entry in bundle.manifest.files.items():
            path = bundle.folder / name
            try:
                if path.is_symlink() or not path.is_file():
                    raise BundleError(f"{path}: missing from the bundle: build or copy the bundle again")
                if path.stat().st_size != entry.size or _sha256(path) != entry.sha256:
                    raise BundleError(
                        f"{path}: changed since the bundle was built (digest differs): build or copy the bundle again"
                    )
            except OSError as error:
                raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error
        known = {*bundle.manifest.files, manifest_format.FILENAME}
        for path in sorted(bundle.folder.iterdir()):
            if path.name not in known:
                raise BundleError(f"{path}: does not belong to the bundle: remove it")
        return bundle

    @classmethod
    def open_unverified(cls, folder: str | Path) -> "Bundle":
        """Read only the manifest, for showing what a bundle claims to be. Raises BundleError."""
        given = folder = Path(folder)
        try:
            folder = folder.resolve(strict=True)
            text = (folder / manifest_format.FILENAME).read_bytes()
        except (OSError, RuntimeError) as error:
            manifest = given / manifest_format.FILENAME
            if (folder / "latest").exists():
                reason = f"{given}: no bundle itself, it holds the versions of one: use {given / 'latest'}"
            elif folder.exists():
                reason = f"{manifest}: cannot be read ({type(error).__name__}), so this is no bundle"
            else:
                reason = f"{given}: no such folder: build a bundle, or unpack or copy one there"
            raise BundleError(reason) from error
        return cls(folder, manifest_format.parse(text, str(given / manifest_format.FILENAME)))

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, from the ranks in the bundle.

        Raises:
            TokenizerError: the ranks are damaged.
            BundleError: the tokenizer does not give the manifest's prompt and end token.
        """
        manifest = self.manifest
        tokenizer = Tokenizer.from_file(self.folder / manifest.tokenizer_file, manifest.dims["n_vocab"])
        if (tokenizer.sot_sequence(), tokenizer.eot) != (manifest.sot_sequence, manifest.eot):
            raise BundleError(
                f"{self.folder}: the tokenizer's prompt {tokenizer.sot_sequence()} is not the manifest's "
                f"{manifest.sot_sequence}: the bundle was made by an incompatible version"
            )
        return tokenizer

    def embedding(self) -> TokenEmbedding:
        """The host's part of the decoder: token and positional embeddings, memory-mapped.

        Raises:
            BundleError: an array has another shape or type than the manifest's dimensions ask for.
        """
        dims = self.manifest.dims
        state = dims["n_text_state"]
        return TokenEmbedding(
            self._array(f"token_embedding_weight_{self.manifest.variant}.npy", (dims["n_vocab"], state)),
            self._array("positional_embedding.npy", (dims["n_text_ctx"], state)),
        )

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self.folder / name
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: not a readable array: {error}") from error
        if array.shape != shape or array.dtype != np.float32:
            raise BundleError(f"{path}: {array.dtype} {array.shape}, expected float32 {shape}")
        return array


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
