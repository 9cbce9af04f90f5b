"""Word errors on recordings of at most four seconds, said once and said twice.

A window of ten seconds is mostly empty then, and multilingual models like to read what was said a second time. Each
recording is transcribed alone, and joined to itself with 0.4 s of silence between, where the text belongs there twice.

    python benchmarks/short_recordings.py --variant tiny --arch hailo8 [SPEECH]

after `make all` for that variant and architecture; SPEECH is whatever DATASET can be, or what was fetched. The encoder
is the float one, the decoder the host's.
"""

import argparse
from pathlib import Path

import numpy as np
from accuracy import WORKSPACE, open_form
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.evaluation.metrics import compare
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stages.evaluate import normaliser_for

MOST_SECONDS = 4
PAUSE = np.zeros(round(0.4 * SAMPLE_RATE), np.float32)


def main() -> None:
    """Print a line for each recording with errors, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", nargs="?", type=Path)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--sequence", type=int)
    options = parser.parse_args()
    plan = ShapePlan.make(options.variant, options.arch, options.seconds, options.sequence)
    _, normalise = normaliser_for(WORKSPACE, "en")
    sums = {"once": [0, 0], "twice": [0, 0]}
    with open_form("float/host", plan) as transcriber:
        for utterance in WORKSPACE.dataset(options.speech).utterances():
            samples = load_audio(utterance.path)
            if not utterance.text or len(samples) > MOST_SECONDS * SAMPLE_RATE:
                continue
            for times, sound, said in (
                ("once", samples, utterance.text),
                ("twice", np.concatenate((samples, PAUSE, samples)), f"{utterance.text} {utterance.text}"),
            ):
                text = transcriber.text(sound, language="en")
                found = compare(said, text, normalise)
                sums[times][0] += found.errors
                sums[times][1] += found.words
                if found.errors:
                    print(f"{times:<6}{found.errors:>3} errors  {utterance.id}: {text}")
    for times, (errors, words) in sums.items():
        print(f"{plan.shape_name}, said {times}: {errors} errors in {words} words")


if __name__ == "__main__":
    main()
