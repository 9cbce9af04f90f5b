"""A bundle on disk: one folder with a manifest, verified before anything in it is used."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisper_runtime import manifest as manifest_format
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import BundleError
from whisper_runtime.manifest import Manifest
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.verified_files import VerifiedFiles, has_digest


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
    def open(cls, folder: str | Path, *, remember: bool = False) -> "Bundle":
        """Read and verify a bundle: every file is there with its size and sha256, and nothing else is.

        Args:
            folder: the bundle's folder, or a link to it such as `artifacts/<name>/latest`.
            remember: do not hash files again that are unchanged since they were found to be right; see
                `VerifiedFiles`. For a quick start; without it every file is read through.

        Raises:
            BundleError: no bundle there, a file missing, changed or too many, or an unreadable manifest.
        """
        bundle = cls.open_unverified(folder)
        entries = {bundle.folder / name: entry for name, entry in bundle.manifest.files.items()}
        verified = VerifiedFiles() if remember else None
        matches = verified.matches if verified else has_digest
        changed = "changed since the bundle was built (digest differs): build or copy the bundle again"
        path = bundle.folder
        try:
            # What is seen at a glance comes first: a copy that was cut short shall not be hashed for nothing.
            for path, entry in entries.items():
                if path.is_symlink() or not path.is_file():
                    raise BundleError(f"{path}: missing from the bundle: build or copy the bundle again")
                if path.stat().st_size != entry.size:
                    raise BundleError(f"{path}: {changed}")
            for path in sorted(bundle.folder.iterdir()):
                if path not in entries and path.name != manifest_format.FILENAME:
                    raise BundleError(f"{path}: does not belong to the bundle: remove it")
            for path, entry in entries.items():
                if not matches(path, entry.sha256):
                    raise BundleError(f"{path}: {changed}")
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error
        if verified:
            verified.save()
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

    def _array(self, name: str, shape: tuple[int, int]) -> np.ndarray:
        path = self.folder / name
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: not a readable array: {error}") from error
        if array.shape != shape or array.dtype not in (np.float16, np.float32):
            raise BundleError(f"{path}: {array.dtype} {array.shape}, expected float16 or float32 {shape}")
        return array
