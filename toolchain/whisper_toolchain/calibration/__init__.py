"""Calibration sets: what the two graphs are fed in use, recorded from the float model on real speech."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CalibrationFiles:
    """Names of the files of one set: arrays of float32 in the device's layout, and a list of what the rows are.

    The encoder needs more rows than the decoder. Row i is the same window in all of them.

    Attributes:
        mel: (N, 1, 100*s, 80), log-mel windows.
        features: (M, 1, 50*s, d), the encoder's output for the first M of them.
        token_embeddings: (M, seq, 1, d), the model's own greedy transcripts of these, embedded.
        lengths: (M,) int32, filled slots of each of these.
        rows: one JSON object a line and a window: where its sound is from and what was read in it.
    """

    mel: str
    features: str
    token_embeddings: str
    lengths: str
    rows: str

    @property
    def arrays(self) -> tuple[str, ...]:
        """The files that a compiler reads."""
        return (self.mel, self.features, self.token_embeddings, self.lengths)


CALIBRATION = CalibrationFiles(
    "encoder_mel.npy",
    "decoder_features.npy",
    "decoder_token_embeddings.npy",
    "decoder_lengths.npy",
    "calibration_rows.jsonl",
)
HOLDOUT = CalibrationFiles(
    "holdout_mel.npy",
    "holdout_features.npy",
    "holdout_token_embeddings.npy",
    "holdout_lengths.npy",
    "holdout_rows.jsonl",
)
"""The same from recordings that are in no calibration row, for measuring what quantisation costs."""
