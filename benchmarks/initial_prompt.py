"""What an initial prompt does to hard words, to all other words, and in noise, beside none.

Hard words are those that the tokenizer has to spell in three tokens or more: names and terms that the model has seldom
seen. The model is told, before each clip,

    none       nothing
    own        the hard words that are said in it, which nobody knows so exactly
    among      the same among others of the same speaker, eight in all
    foreign    six hard words of other speakers: what is told is not said
    sentence   a command that nobody gives

each as far as there is room. Noise (white, brown, hum) is told the sentence: what is heard there is its echo.

    python benchmarks/initial_prompt.py --variant tiny.en --arch hailo8 --forms float,float/host SPEECH

after `make all` for that variant and architecture. Fails if anything is heard in noise.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accuracy import FORMS, REFERENCE, count, open_form
from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.errors import TokenizerError
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.transcriber import Transcriber
from whisper_toolchain.datasets import Utterance, open_dataset
from whisper_toolchain.shape_plan import VARIANTS, ShapePlan

HARD_TOKENS = 3
AMONG, FOREIGN = 8, 6
SENTENCE = "Set the thermostat to 21."
NOISES = 36  # of each kind
LEVELS = (0.003, 0.03, 0.2)


def hard_words(text: str, tokenizer: Tokenizer) -> list[str]:
    """The hard words of a text in capitals, each once and with one capital."""
    words = dict.fromkeys(word.capitalize() for word in text.split() if word.isalpha())
    return [
        word
        for word in words
        if min(len(tokenizer.encode(f" {spelt}")) for spelt in (word, word.lower())) >= HARD_TOKENS
    ]


def prompts(utterances: Sequence[Utterance], tokenizer: Tokenizer) -> dict[str, dict[str, list[str]]]:
    """What is told before each utterance, {kind: {utterance: parts that may be left out from the end}}."""
    chosen = random.Random(0)
    hard = {utterance.id: hard_words(utterance.text or "", tokenizer) for utterance in utterances}
    among, foreign = {}, {}
    for name, own in hard.items():
        near, far = set[str](), set[str]()
        for other, words in hard.items():
            (near if _speaker(other) == _speaker(name) else far).update(words)
        others, strange = sorted(near - set(own)), sorted(far - set(own))
        among[name] = own + chosen.sample(others, min(len(others), max(0, AMONG - len(own))))
        foreign[name] = chosen.sample(strange, min(len(strange), FOREIGN))
    nothing: dict[str, list[str]] = {name: [] for name in hard}
    sentence = {name: [SENTENCE.rstrip(".")] for name in hard}
    return {"none": nothing, "own": hard, "among": among, "foreign": foreign, "sentence": sentence}


def fitting(transcriber: Transcriber, parts: Sequence[str], chosen: random.Random) -> str:
    """As many parts as there is room for, in any order, as an initial prompt."""
    for end in range(len(parts), 0, -1):
        text = ", ".join(chosen.sample(list(parts[:end]), end)) + "."
        try:
            transcriber.prompt("en", initial_prompt=text)
        except TokenizerError:
            continue
        return text
    return ""


def noises() -> list[np.ndarray]:
    """Samples of noise, one to nine seconds of each."""
    found = []
    for seed in range(NOISES // len(LEVELS)):
        numbers = np.random.default_rng(seed)
        for level in LEVELS:
            samples = round(numbers.uniform(1, 9) * SAMPLE_RATE)
            white = numbers.normal(size=samples)
            brown = np.cumsum(white)
            brown -= np.convolve(brown, np.ones(400) / 400, "same")
            hum = 2 * np.sin(2 * np.pi * 50 * np.arange(samples) / SAMPLE_RATE) + 0.3 * white
            kinds = (white, 3 * brown / np.abs(brown).max(), hum)
            found += [(level * kind).clip(-1, 1).astype(np.float32) for kind in kinds]
    return found


def _speaker(utterance: str) -> str:
    return utterance.split("-")[0]


def _said(words: Sequence[str], text: str) -> int:
    heard = {"".join(filter(str.isalpha, word)).lower() for word in text.split()}
    return sum(word.lower() in heard for word in words)


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description="What an initial prompt does, beside none.")
    parser.add_argument("speech", type=Path, help="folder of speech with transcripts, such as LibriSpeech's")
    parser.add_argument("--variant", required=True, choices=VARIANTS)
    parser.add_argument("--arch", required=True)
    forms = [form for form in FORMS if form != REFERENCE]
    parser.add_argument("--forms", default="float,float/host", help=f"of {','.join(forms)}")
    options = parser.parse_args()
    asked = options.forms.split(",")
    if unknown := sorted(set(asked) - set(forms)):
        parser.error(f"no such form: {', '.join(unknown)}")
    plan = ShapePlan.make(options.variant, options.arch)
    utterances = [utterance for utterance in open_dataset(options.speech).utterances() if utterance.text]
    echoes = 0
    for form in asked:
        with open_form(form, plan) as transcriber:
            told = prompts(utterances, transcriber.tokenizer)
            hard = told["own"]
            print(f"{plan.bundle_name}, {options.speech.name}, {form}: {len(utterances)} clips")
            for kind, parts in told.items():
                chosen, began = random.Random(0), time.process_time()
                texts = {}
                for utterance in utterances:
                    prompt = fitting(transcriber, parts[utterance.id], chosen)
                    texts[utterance.id] = transcriber.text(utterance.path, language="en", initial_prompt=prompt)
                right = sum(_said(hard[name], text) for name, text in texts.items())
                errors = count(utterances, texts)
                print(
                    f"  {kind:<9} {errors.percent:6.2f} %   hard words {right} of {sum(map(len, hard.values()))}   "
                    f"{time.process_time() - began:.0f} s of processor time",
                    flush=True,
                )
            echoed = (transcriber.text(noise, language="en", initial_prompt=SENTENCE) for noise in noises())
            heard = [text for text in echoed if text]
            print(f"  noise     {len(heard)} of {3 * NOISES} heard: {heard[:3]}")
            echoes += len(heard)
    return 1 if echoes else 0


if __name__ == "__main__":
    sys.exit(main())
