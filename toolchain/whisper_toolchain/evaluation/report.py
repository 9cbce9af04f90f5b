"""An evaluation as a page: one HTML file with charts and recordings, which needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from whisper_toolchain.evaluation import charts
from whisper_toolchain.evaluation.alignment import AlignedWord, align
from whisper_toolchain.evaluation.clip_choice import ChosenClip, choose_clips, key
from whisper_toolchain.evaluation.embedded_audio import EmbeddedClip, embed
from whisper_toolchain.evaluation.result import measured_rungs
from whisper_toolchain.html_page import counted, join, page, table

_MOST_WORDS = 300  # of one recording's alignment
_MOST_LISTED = 50
_MARKS = {"substitute": "S", "delete": "D", "insert": "I"}

_STYLE = Markup("""
.emulated { font-size: 1.05rem } .verdict { font-size: 1.1rem; font-weight: 600 }
.clip { border-top: 1px solid var(--line); padding: .8rem 0 } .clip h3 { margin: 0; font-size: 1rem }
.clip p, .clip details { margin: .3rem 0 } .clip h4 { margin: .8rem 0 .2rem; font-size: .9rem }
.clip audio { display: block; width: 100%; max-width: 26rem; margin: .5rem 0 }
.diff { line-height: 1.3 } .word { display: inline-block; vertical-align: top; padding: 0 .12rem }
.word span { display: block; min-height: 1.3em } .word .kind { font-size: .7rem; font-weight: 700; min-height: 0 }
.delete, .substitute, .insert { background: var(--panel); outline: 1px solid var(--line); margin: 0 .12rem;
  border-radius: .2rem }
.delete .said, .substitute .said { text-decoration: line-through; color: var(--bad) }
.insert .heard, .substitute .heard { text-decoration: underline; color: var(--good); font-weight: 600 }
.facts { display: grid; grid-template-columns: minmax(6rem, max-content) minmax(0, 1fr); gap: .2rem 1rem;
  font-size: .9rem } .facts dt { color: var(--soft) } .facts dd { margin: 0 }
""")


def render_report(result: Mapping[str, Any], recordings: Mapping[str, Path]) -> bytes:
    """The page. The same result and the same recordings give the same bytes.

    Args:
        result: of an evaluation, checked.
        recordings: where recordings lie, by id; those that are not there have no player. No path gets into the page.
    """
    bundle = result["bundle"]
    parts = [
        Markup("<p>{}, <small>digest {}</small></p>").format(
            f"version {bundle['version']}" if bundle["version"] else "no bundle", bundle["digest"] or "-"
        )
    ]
    if bundle["emulated"]:
        parts.append(
            Markup(
                '<p class="warning emulated"><strong>EMULATED.</strong> The bundle\'s rungs ran on a CPU with ONNX '
                "Runtime, not on a Hailo device. Their times and memory say nothing of a device.</p>"
            )
        )
    parts += [
        Markup('<p class="verdict">{}</p>').format(result["verdict"][:1].upper() + result["verdict"][1:]),
        _speech(result),
        _section("Word error rate, rung by rung", charts.ladder(result), _LADDER_NOTE),
    ]
    if measured_rungs(result):
        parts += [
            _section("Word error rate by length of the recording", charts.by_length(result)),
            _section("Figures", _figures(result), _figures_note(result)),
        ]
    noise = result.get("layer_noise")
    if noise:
        parts.append(_section("Noise by layer", charts.layer_noise(noise), _noise_note(noise)))
    parts += [_clips(result, recordings), _left_out(result), _section("To repeat it", _facts(result))]
    title = f"Evaluation of {bundle['name']}" + (" (EMULATED)" if bundle["emulated"] else "")
    return page(title, parts, join((charts.STYLE, _STYLE)))


_LADDER_NOTE = (
    "Dot: word error rate. Band: its 95 % interval, of a bootstrap over the recordings. Upright line: the rung that it "
    "is compared with."
)


def _noise_note(noise: Mapping[str, Any]) -> str:
    """What the figures of a list of layers are."""
    windows = f"{counted(noise['clips'], 'window')} that did not calibrate, most noise first."
    if charts.noise_key(noise) == "own_snr_db":
        return f"What each layer adds itself, its input in float: signal-to-noise ratio against float on {windows}"
    return (
        "Of Hailo's compiler, on this CPU: signal-to-noise ratio of its quantised network against its float one, with "
        f"all noise up to each layer, before fine-tuning, on {windows}"
    )


def _section(title: str, content: Markup, note: str = "") -> Markup:
    text = Markup('<p class="soft">{}</p>').format(note) if note else ""
    return Markup("<h2>{}</h2>{}{}").format(title, text, content)


def _speech(result: Mapping[str, Any]) -> Markup:
    dataset = result["dataset"]
    lines = [
        f"{counted(dataset['clips'], 'recording')} of {dataset['name']}, {dataset['seconds'] / 60:.1f} minutes",
        f"language {result['language'] or 'detected'}",
        f"texts compared after {result['normaliser']} normaliser",
    ]
    if dataset["without_text"]:
        lines.append(f"{dataset['without_text']} more have no transcript and are left out")
    return Markup("<p>{}.</p>").format("; ".join(lines))


def _figures(result: Mapping[str, Any]) -> Markup:
    """Every measured rung's figures."""
    rungs = measured_rungs(result)
    stages = sorted({stage for rung in rungs for stage in rung["stages"]})
    device = any(rung.get("device") for rung in rungs)
    heads = ["rung", "WER %", "95 % interval", "CER %", "sub", "del", "ins", "words", "hallucinated", "empty", "calls"]
    heads += ["RTF", *(f"{stage} s" for stage in stages), "whole s", "MB"]
    if device:
        heads += ["W mean", "W max", "°C max"]
    rows = []
    for rung in rungs:
        score = rung["score"]
        row = [rung["name"], f"{score['wer']:.2f}", f"{score['wer_low']:.2f} – {score['wer_high']:.2f}"]
        row += [f"{score['cer']:.2f}"]
        counts = ("substitutions", "deletions", "insertions", "words", "hallucinations", "empty")
        row += [str(score[name]) for name in counts]
        row += [_number(rung["calls"], 0) + ("*" if rung["drafted"] else ""), f"{rung['real_time_factor']:.3f}"]
        row += [_number(rung["stages"].get(stage), 1) for stage in stages]
        row += [f"{rung['seconds']:.1f}", _number(rung["peak_memory_mb"], 0)]
        if device:
            found = rung.get("device") or {}
            power, heat = found.get("power_w") or {}, found.get("temperature_c") or {}
            row += [_number(power.get("mean"), 2), _number(power.get("max"), 2), _number(heat.get("max"), 0)]
        rows.append(row)
    return table(heads, rows)


def _figures_note(result: Mapping[str, Any]) -> str:
    """What the table's words mean."""
    note = (
        "Hallucinated: recordings with at least 3 inserted words and half as many as were said. Empty: recordings in "
        "which nothing was found. Calls: runs of the decoder's graph. RTF: time taken, by the recording's length. "
        "MB: most memory, in units of a million bytes."
    )
    if any(rung["drafted"] for rung in measured_rungs(result)):
        note += " * Drafted by the decoder for the host: the same text in fewer calls and less time."
    return note


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _clips(result: Mapping[str, Any], recordings: Mapping[str, Path]) -> Markup:
    rungs = measured_rungs(result)
    chosen = choose_clips(result)
    if not chosen:
        return _section("Recordings to look at", Markup("<p>No recording has an error on the last rung.</p>"))
    last = rungs[-1]["name"]
    sounds = embed((each.clip for each in chosen), recordings)
    with_sound = sum(bool(sound.uri) for sound in sounds.values())
    note = (
        f"Those with the most errors on {last}, the last rung that was measured, and those that lost most against "
        f"float: {len(chosen)} of {len(rungs[-1]['clips'])} recordings, {with_sound} with their sound. Upper line: "
        "what was said. Lower line: the transcript. S: another word, D: left out, I: inserted."
    )
    # Counts of every rung, so that one sees where a recording went wrong.
    counts: dict[tuple[str, str], list[str]] = {}
    for rung in rungs:
        for clip in rung["clips"]:
            counts.setdefault(key(clip), []).append(f"{rung['name']} {clip['errors']}")
    articles = join(
        _clip(each, last, sounds[each.clip["id"]], "errors: " + ", ".join(counts[key(each.clip)])) for each in chosen
    )
    return _section("Recordings to look at", articles, note)


def _clip(chosen: ChosenClip, rung: str, sound: EmbeddedClip, counts: str) -> Markup:
    clip, before = chosen.clip, chosen.before
    reasons = ["most errors"] if chosen.worst else []
    if chosen.lost:
        reasons.append(f"{chosen.lost} more than float")
    if sound.uri:
        player = Markup('<audio controls preload="metadata" src="{}" aria-label="{}"></audio>').format(
            sound.uri, clip["id"]
        )
    else:
        player = Markup("<p><small>No sound: {}.</small></p>").format(sound.reason)
    alignments = [_diff(rung, clip)]
    if before is not None:
        alignments.append(_diff("float", before, same=before["text"] == clip["text"]))
    written = Markup(
        "<details><summary><small>as written</small></summary><p><small>said: {}<br>{}: {}{}</small></p></details>"
    ).format(
        clip["reference"],
        rung,
        clip["text"],
        Markup("<br>float: {}").format(before["text"]) if before is not None else "",
    )
    return Markup('<article class="clip"><h3>{}</h3><small>{:.1f} s, {}; {}; {}</small>{}{}{}</article>').format(
        clip["id"],
        clip["duration"],
        counted(clip["words"], "word"),
        ", ".join(reasons),
        counts,
        player,
        join(alignments),
        written,
    )


def _diff(rung: str, clip: Mapping[str, Any], same: bool = False) -> Markup:
    head = Markup("<h4>{}: {}</h4>").format(rung, counted(clip["errors"], "error"))
    if same:
        return Markup("{}<p><small>the same text</small></p>").format(head)
    reference, text = clip.get("normalised_reference"), clip.get("normalised_text")
    if reference is None or text is None:
        return Markup("{}<p>{}<br>{}</p><p><small>not aligned: the result has no normalised texts</small></p>").format(
            head, clip["reference"], clip["text"]
        )
    words = align(reference, text)
    more = len(words) - _MOST_WORDS
    rest = Markup(" <small>… and {} more words</small>").format(more) if more > 0 else ""
    return Markup('{}<p class="diff">{}{}</p>').format(head, join(map(_word, words[:_MOST_WORDS]), " "), rest)


def _word(word: AlignedWord) -> Markup:
    mark = _MARKS.get(word.kind)
    return Markup('<span class="word {}"><span class="said">{}</span> <span class="heard">{}</span>{}</span>').format(
        word.kind,
        word.said or Markup("&nbsp;"),
        word.heard or Markup("&nbsp;"),
        Markup(' <span class="kind">{}</span>').format(mark) if mark else "",
    )


def _left_out(result: Mapping[str, Any]) -> Markup:
    """Recordings that are in no figure or not in those of one rung."""
    lines = [f"unreadable: {each['id']}: {each['reason']}" for each in result["dataset"]["unreadable"]]
    for rung in measured_rungs(result):
        lines += [f"failed on {rung['name']}: {each['id']}: {each['reason']}" for each in rung["failed"]]
    if not lines:
        return Markup("")
    rest = Markup("<p>{} more.</p>").format(len(lines) - _MOST_LISTED) if len(lines) > _MOST_LISTED else ""
    listed = join(Markup("<li>{}</li>").format(line) for line in lines[:_MOST_LISTED])
    return _section("Recordings that were left out", Markup("<ul>{}</ul>{}").format(listed, rest))


def _facts(result: Mapping[str, Any]) -> Markup:
    bundle, dataset = result["bundle"], result["dataset"]
    facts: Sequence[tuple[str, Any]] = (
        ("command", result.get("command")),
        ("date", result.get("date")),
        ("bundle", " ".join(filter(None, (bundle["name"], bundle["version"])))),
        ("bundle's digest", bundle["digest"]),
        ("dataset", dataset["name"]),
        ("dataset's digest", dataset["digest"]),
        ("seed", dataset["seed"]),
        ("recordings at most", dataset.get("limit") or "all"),
        ("language", result["language"] or "detected"),
        ("normaliser", result["normaliser"]),
        ("commit", result.get("git_revision")),
        ("toolchain", result["toolchain"]),
        ("versions", _listed(result["versions"])),
        ("machine", _listed(result["machine"])),
        ("schema", result["schema"]),
    )
    rows = join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(name, "not known" if value is None else value) for name, value in facts
    )
    return Markup('<dl class="facts">{}</dl>').format(rows)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {values[name]}" for name in sorted(values))
