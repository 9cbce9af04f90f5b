"""When words are said, by ours and by stock openai-whisper, on the same clips with the same weights.

    python benchmarks/word_times.py --variant tiny.en --arch hailo8 SPEECH...

after `make all` for that variant and architecture. Nobody has measured these recordings by hand, so it is told how far
ours is from openai-whisper's (`word_timestamps=True`, 30 s of context, float), over the words that both have read.
"""

import argparse
import difflib
import sys
import time
from pathlib import Path

import numpy as np
from accuracy import FORMS, REFERENCE, WORKSPACE, open_form
from whisper_runtime.audio import load_audio
from whisper_toolchain import third_party
from whisper_toolchain.checkpoints import load
from whisper_toolchain.datasets import open_dataset
from whisper_toolchain.model import build_model
from whisper_toolchain.shape_plan import VARIANTS, ShapePlan
from whisper_toolchain.stages.fetch import CHECKPOINT

Timed = tuple[str, float, float]  # a word in small letters, its start and its end in seconds


def common_words(ours: list[Timed], theirs: list[Timed]) -> list[tuple[Timed, Timed]]:
    """The words that both have, each with the other's."""
    matcher = difflib.SequenceMatcher(None, [word for word, _, _ in ours], [word for word, _, _ in theirs], False)
    return [
        (ours[block.a + place], theirs[block.b + place])
        for block in matcher.get_matching_blocks()
        for place in range(block.size)
    ]


def small(word: str) -> str:
    """A word without punctuation and capitals."""
    return "".join(filter(str.isalnum, word)).lower()


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description="How far the times of words are from openai-whisper's.")
    parser.add_argument("speech", nargs="+", type=Path, help="folders or files of speech")
    parser.add_argument("--variant", required=True, choices=VARIANTS)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--form", default="float/host", choices=[form for form in FORMS if form != REFERENCE])
    parser.add_argument("--limit", type=int, help="clips of each at most")
    options = parser.parse_args()
    plan = ShapePlan.make(options.variant, options.arch)
    tree = third_party.unpack_stock(WORKSPACE.third_party, WORKSPACE.root / "build/benchmarks/stock", report=print)
    whisper = third_party.import_whisper(tree, "stock_whisper")
    stock = build_model(whisper, load(WORKSPACE.checkpoint(options.variant) / CHECKPOINT), 1500)
    stock.set_alignment_heads(whisper._ALIGNMENT_HEADS[options.variant])  # type: ignore[operator]
    settings = {"temperature": 0.0, "language": "en", "fp16": False, "word_timestamps": True}
    for folder in options.speech:
        pairs, words, plain, timed = [], 0, 0.0, 0.0
        with open_form(options.form, plan) as transcriber:
            for utterance in open_dataset(folder).utterances()[: options.limit]:
                audio = load_audio(utterance.path)
                began = time.perf_counter()
                transcriber.text(audio, language="en")
                plain += time.perf_counter() - began
                began = time.perf_counter()
                segments = list(transcriber.transcribe(audio, language="en", word_timestamps=True)[0])
                timed += time.perf_counter() - began
                ours = [(small(w.word), w.start, w.end) for s in segments for w in s.words or ()]
                theirs = [
                    (small(w["word"]), w["start"], w["end"])
                    for s in whisper.transcribe(stock, audio, **settings)["segments"]
                    for w in s["words"]
                ]
                words += len(theirs)
                pairs += common_words(ours, theirs)
        print(f"{plan.bundle_name}, {folder.name}, {options.form}: {len(pairs)} of {words} words are in both texts")
        for name, place in (("begins", 1), ("ends", 2)):
            apart = np.array([abs(ours[place] - theirs[place]) for ours, theirs in pairs])  # type: ignore[operator]
            print(
                f"  {name:<7} apart: median {np.median(apart):.2f} s, {np.mean(apart <= 0.05):.0%} within 0.05 s, "
                f"{np.mean(apart <= 0.1):.0%} within 0.1 s, {np.mean(apart <= 0.25):.0%} within 0.25 s"
            )
        print(f"  time: {timed / plain:.2f} of that without words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
