"""The page of an evaluation that is there already, such as one that a device made."""

from pathlib import Path

from whisper_runtime.atomic_file import write_atomically

from whisper_toolchain.datasets import open_dataset
from whisper_toolchain.download import Report
from whisper_toolchain.errors import EvaluationError
from whisper_toolchain.evaluation.report import render_report
from whisper_toolchain.evaluation.result import read_result


def write_page(evaluation: Path, output: Path | None, audio: Path | None, *, report: Report) -> None:
    """Write the page of an evaluation's JSON.

    Args:
        evaluation: the JSON.
        output: the page; None for `.html` beside the JSON.
        audio: the dataset that was measured on, for the players; None for a page without.
        report: told where the page is.

    Raises:
        DatasetError: `audio` is no dataset.
        EvaluationError: the JSON cannot be read, or `output` is the JSON.
        OSError: the page cannot be written.
    """
    result = read_result(evaluation)
    output = output or evaluation.with_suffix(".html")
    if output.resolve() == evaluation.resolve():
        raise EvaluationError(f"{output}: the page would replace the JSON; give another --output")
    found = [] if audio is None else open_dataset(audio, keep_missing=True).utterances()
    write_atomically(output, [render_report(result, {utterance.id: utterance.path for utterance in found})])
    report(f"report: wrote {output}")
