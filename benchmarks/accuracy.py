"""Word error rate of the same weights in every form, beside stock openai-whisper, in one harness.

    stock          openai-whisper in torch: 30 s of context, temperature 0
    reference      the float graphs as Hailo's reference flow decodes them
    float          the exported float graphs: the accelerator's fixed window and slots
    float/host     the same encoder with the int8 decoder for the host's CPU
    bundle         the bundle's graphs (an emulated bundle: on this CPU)
    bundle/host    the bundle's encoder with the decoder for the host's CPU

Corpus level, Whisper's English normaliser. A clip is bad if it has more than twice stock's errors plus 3 words: a
loop or a lost tail.

    python benchmarks/accuracy.py --variant tiny.en --arch hailo8 SPEECH...

after `make all` for that variant and architecture; SPEECH is whatever DATASET can be. Fails if a float form exceeds
stock by more than --most points, a bundle exceeds its float form by more than 1, or a clip of ours is bad. With
--results the rates go into a JSON file, beside those that are there; accuracy_chart.py draws them.

Greedy texts in the slots are drafted by the host decoder, which changes no token (tests/runtime/test_decoding.py) and
saves most of the time. Stock's texts are kept in build/benchmarks, since they take longest.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reference_flow import START, open_reference, reference_text
from whisper_runtime.audio import load_audio
from whisper_runtime.backends import Backend, open_backend
from whisper_runtime.bundle import Bundle
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.stitching import for_host_decoder
from whisper_runtime.transcriber import Transcriber
from whisper_runtime.window_reader import Prompt
from whisper_toolchain import third_party
from whisper_toolchain.checkpoints import load
from whisper_toolchain.datasets import Utterance, open_dataset
from whisper_toolchain.evaluation.drafted_reader import DraftedReader
from whisper_toolchain.float_model import host_arrays, load_tokenizer, open_float_backend
from whisper_toolchain.model import build_model
from whisper_toolchain.shape_plan import VARIANTS, ShapePlan
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.word_errors import WordErrors, count_word_errors
from whisper_toolchain.workspace import Workspace

REFERENCE = "reference"
FORMS = (REFERENCE, "float", "float/host", "bundle", "bundle/host")
MOST_OF_BUNDLE = 1.0
SHOWN = 5  # bad clips
WORKSPACE = Workspace(Path(__file__).resolve().parent.parent)


def open_form(form: str, plan: ShapePlan, beam_size: int | None = None) -> Transcriber:
    """Open one of FORMS, which follows so many texts; None for as many as the runtime does if it is not told."""
    tokenizer = load_tokenizer(WORKSPACE.whisper, plan.dims)
    backend: Backend
    if not form.startswith("bundle"):
        folder = WORKSPACE.export(plan)
        arrays = host_arrays(load(WORKSPACE.checkpoint(plan.variant) / CHECKPOINT))
        if form == REFERENCE:
            return open_reference(plan, folder, arrays, tokenizer)
        backend, embedding = open_float_backend(folder), TokenEmbedding(*arrays)
    else:
        bundle = Bundle.open(WORKSPACE.bundle(plan))
        folder, backend, embedding = bundle.folder, open_backend(bundle), bundle.embedding()
    if form.endswith("/host"):
        backend, seconds = for_host_decoder(backend, folder, plan.seconds)
        return Transcriber.from_parts(
            backend, HostDecoder(backend, embedding, folder, beam_size=beam_size), tokenizer, seconds
        )
    host = HostDecoder(backend, embedding, folder)
    slots = SlotDecoder(backend, embedding, plan.sequence, beam_size)
    transcriber = Transcriber.from_parts(backend, slots, tokenizer, plan.seconds)
    transcriber.reader = DraftedReader(backend, slots, host, tokenizer, plan.seconds)
    return transcriber


def text_of(form: str, transcriber: Transcriber, recording: Path) -> str:
    """What one of FORMS makes of a recording."""
    if form == REFERENCE:
        prompt = Prompt((START,), transcriber.prompt("en").rules)
        return reference_text(transcriber, load_audio(recording), prompt)
    return transcriber.text(recording, language="en")


def stock_texts(variant: str, speech: str, utterances: Sequence[Utterance]) -> dict[str, str]:
    """Texts of openai-whisper, by utterance."""
    kept = WORKSPACE.root / "build" / "benchmarks" / f"stock-{variant}-{speech}.json"
    if kept.exists():
        texts: dict[str, str] = json.loads(kept.read_text(encoding="utf-8"))
        if set(texts) == {utterance.id for utterance in utterances}:
            return texts
    tree = third_party.unpack_stock(WORKSPACE.third_party, WORKSPACE.root / "build/benchmarks/stock", report=_say)
    whisper = third_party.import_whisper(tree, "stock_whisper")
    model = build_model(whisper, load(WORKSPACE.checkpoint(variant) / CHECKPOINT), 1500)
    options = {"temperature": 0.0, "language": "en", "fp16": False}
    texts = transcribe("stock", utterances, lambda u: whisper.transcribe(model, load_audio(u.path), **options)["text"])
    _write(kept, texts)
    return texts


def transcribe(name: str, utterances: Sequence[Utterance], text: Callable[[Utterance], str]) -> dict[str, str]:
    """Texts by utterance; says how it goes."""
    started = time.perf_counter()
    texts = {}
    for number, utterance in enumerate(utterances, start=1):
        texts[utterance.id] = text(utterance).strip()
        if number % 50 == 0 or number == len(utterances):
            _say(f"{name}: {number} of {len(utterances)} clips, {time.perf_counter() - started:.0f} s")
    return texts


def count(utterances: Sequence[Utterance], texts: dict[str, str]) -> WordErrors:
    """Errors over a corpus."""
    return count_word_errors([u.text or "" for u in utterances], [texts[u.id] for u in utterances], WORKSPACE.whisper)


def bad_clips(utterances: Sequence[Utterance], texts: dict[str, str], stock: dict[str, str]) -> list[str]:
    """Clips with more than twice stock's errors plus 3 words."""
    bad = []
    for utterance in utterances:
        ours, theirs = (_sum(count([utterance], found)) for found in (texts, stock))
        if ours > 2 * theirs + 3:
            bad.append(f"{utterance.id} ({ours} errors, stock {theirs})")
    return bad


def _sum(errors: WordErrors) -> int:
    return errors.substitutions + errors.deletions + errors.insertions


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description="Word error rate of one variant in every form, beside stock Whisper.")
    parser.add_argument("speech", nargs="+", type=Path, help="folders or files of speech with transcripts")
    parser.add_argument("--variant", required=True, choices=VARIANTS)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--forms", default=",".join(FORMS), help=f"of {','.join(FORMS)}")
    parser.add_argument(
        "--beam-size", type=int, help="texts that are followed at once (default: as many as the runtime does)"
    )
    parser.add_argument("--most", type=float, default=0.5, help="points that a float form may be above stock")
    parser.add_argument("--results", type=Path, help="JSON file for the rates")
    parser.add_argument("--texts", type=Path, help="folder to write all texts to, as JSON")
    options = parser.parse_args()
    forms = options.forms.split(",")
    if unknown := sorted(set(forms) - set(FORMS)):
        parser.error(f"no such form: {', '.join(unknown)}")
    if options.results and options.beam_size:
        parser.error("--results keeps the rates of the default beam size")
    plan = ShapePlan.make(options.variant, options.arch)
    broken = []
    for folder in options.speech:
        utterances = [utterance for utterance in open_dataset(folder).utterances() if utterance.text]
        stock = stock_texts(plan.variant, folder.name, utterances)
        errors = count(utterances, stock)
        limit = errors.percent
        print(f"{plan.bundle_name}, {folder.name}, {len(utterances)} clips, {errors.words} words")
        print(f"  {'stock':<12} {limit:6.2f} %")
        percents: dict[str, float] = {}
        for form in forms:
            with open_form(form, plan, options.beam_size) as transcriber:
                texts = transcribe(form, utterances, lambda u, f=form, t=transcriber: text_of(f, t, u.path))  # type: ignore[misc]
            percents[form] = count(utterances, texts).percent
            bad = bad_clips(utterances, texts, stock)
            shown = ", ".join(bad[:SHOWN]) + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
            print(f"  {form:<12} {percents[form]:6.2f} %  bad: {shown or 'none'}", flush=True)
            if options.texts:
                _write(options.texts / f"{plan.bundle_name}-{folder.name}-{form.replace('/', '-')}.json", texts)
            most = limit + options.most
            if form.startswith("bundle"):
                most = percents.get(form.replace("bundle", "float"), limit) + MOST_OF_BUNDLE
            if form != REFERENCE and (percents[form] > most or bad):
                broken.append(f"{folder.name} {form}")
        if options.results:
            _add(options.results, plan.bundle_name, folder.name, {"stock": limit, **percents})
    if broken:
        print(f"broken promises: {', '.join(broken)}")
    return 1 if broken else 0


def _add(path: Path, bundle: str, speech: str, percents: dict[str, float]) -> None:
    """Put rates beside others of the same bundle and speech, {bundle: {speech: {form: percent}}}."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results.setdefault(bundle, {}).setdefault(speech, {}).update({form: round(p, 2) for form, p in percents.items()})
    _write(path, results)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
