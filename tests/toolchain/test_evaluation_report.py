"""An evaluation's page: what is in it, whatever the result, and how a real browser shows it."""

import hashlib
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from whisper_runtime.audio import load_audio
from whisper_runtime.errors import AudioError
from whisper_runtime.evaluation.speech import without_folder
from whisper_toolchain.cli import main
from whisper_toolchain.errors import EvaluationError
from whisper_toolchain.evaluation.alignment import align
from whisper_toolchain.evaluation.clip_choice import choose_clips
from whisper_toolchain.evaluation.comparison import comparison
from whisper_toolchain.evaluation.embedded_audio import LONGEST, embed
from whisper_toolchain.evaluation.report import render_report
from whisper_toolchain.evaluation.result import read_result

from tests.browser import Browser, find_browser
from tests.toolchain.evaluation_results import SAID, clip, missing, result, rung, toy_result

EVIL = "</script><img src=x onerror=\"document.title='evil'\"><b>'&quot;"


class Tags(HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page.decode())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def tags(page):
    return Tags(page).tags


@pytest.fixture
def sounds(tmp_path):
    """Two recordings, by id, and the digests that a result has of them."""
    random = np.random.default_rng(0)
    paths = {}
    for name, seconds in (("c0", 1), ("c1", 2)):
        paths[name] = tmp_path / f"{name}.wav"
        soundfile.write(paths[name], 0.1 * random.standard_normal(16000 * seconds), 16000)
    return paths, {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


def with_sound(made, digests):
    for each in made["rungs"]:
        for entry in each.get("clips", ()):
            entry["audio"] = digests[entry["id"]]
    return made


def full_result():
    """Everything that a result can have."""
    made = toy_result()
    made["layer_noise"] = {
        "clips": 4,
        "layers": [noise(f"encoder.blocks.{i}.mlp.0", snr) for i, snr in enumerate((-3.0, 9.9, 30.0))],
    }
    made["rungs"][2]["device"] = {"power_w": {"mean": 1.234, "max": 2.5}, "temperature_c": {"max": 61.0}}
    made["rungs"][2]["failed"] = [{"id": "c7", "reason": "timed out"}]
    made["dataset"]["unreadable"] = [{"id": "c9", "reason": "not audio"}]
    return made


def noise(layer, snr):
    ratios = {"own_snr_db": snr, "snr_db": snr}
    return {"graph": "encoder", "layer": layer, "bits": 8, **ratios, "recipe_line": f'"{layer}"'}


def test_what_stands_in_the_page():
    text = Tags(render_report(full_result(), {})).text
    for words in (
        *("whisper-toy", "0.1.0+0123", "0123abcd", "EMULATED.", "no device here", "first broken rung"),
        *(
            "emulated+float: 3 errors",
            "no recording was given",
            "-3.0 dB with the noise before it",
            "1.23",
            "2.50",
            "61",
            "timed out",
        ),
        *("not audio", "whisper-toolchain evaluate --variant tiny", "numpy 2", "cores 2", "10 to 15 s"),
    ):
        assert words in text, words


def test_only_what_is_emulated_says_so():
    made = toy_result()
    made["bundle"]["emulated"] = False
    assert "EMULATED" not in Tags(render_report(made, {})).text


def test_the_page_needs_nothing_else_and_runs_nothing(sounds):
    paths, digests = sounds
    page = render_report(with_sound(full_result(), digests), paths)
    assert page == render_report(with_sound(full_result(), digests), paths)
    found = tags(page)
    assert not {"script", "link", "iframe", "object", "embed", "img"} & {tag for tag, _ in found}
    loaded = [attributes["src"] for _, attributes in found if "src" in attributes]
    assert len(loaded) == 2
    assert all(each.startswith("data:audio/mpeg;base64,") for each in loaded)
    policy = next(a["content"] for tag, a in found if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    assert str(paths["c0"].parent).encode() not in page


def hostile(value):
    """A result with text of somebody's choice wherever it has text."""
    kept = ("status", "name")
    if isinstance(value, dict):
        return {key: item if key in kept else hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_texts_are_text(tmp_path):
    made = hostile(full_result())
    made["bundle"]["name"] = EVIL
    made["rungs"].append(missing(EVIL, EVIL))
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(made))
    page = render_report(read_result(path), {})
    kinds = {tag for tag, _ in tags(page)}
    assert not {"script", "img"} & kinds
    assert not any(name.startswith("on") for _, attributes in tags(page) for name in attributes)
    assert Tags(page).text.count(EVIL) > 10


@given(st.text(max_size=30))
def test_any_transcript_makes_the_same_tags(text):
    plain, found = (
        render_report(result([rung("float", [clip("c0", "one two", each), clip("c1", "one", "two")])]), {})
        for each in ("wrong", "".join(text.split()) or "wrong")
    )
    assert [tag for tag, _ in tags(plain)] == [tag for tag, _ in tags(found)]


@given(st.lists(st.sampled_from("abc"), min_size=1), st.lists(st.sampled_from("abc")))
def test_an_alignment_holds_every_word_once(said, heard):
    words = align(" ".join(said), " ".join(heard))
    assert [word.said for word in words if word.said] == said
    assert [word.heard for word in words if word.heard] == heard
    counted = clip("c", " ".join(said), " ".join(heard))
    assert sum(word.kind != "equal" for word in words) == counted["errors"]


def test_what_was_said_into_silence_is_inserted():
    assert [(word.kind, word.heard) for word in align("", "thank you")] == [("insert", "thank"), ("insert", "you")]


def test_clips_with_the_most_errors_and_those_that_lost_most():
    clips = [clip(f"c{i}", "a b c d e f", " ".join("abcdef"[i:])) for i in range(4)]
    before = [clip(f"c{i}", "a b c d e f", "a b c d e f" if i == 1 else " ".join("abcdef"[i:])) for i in range(4)]
    chosen = choose_clips(result([rung("float", before), rung("emulated", clips)]), 1)
    assert [(each.clip["id"], each.worst, each.lost) for each in chosen] == [("c3", True, 0), ("c1", False, 1)]


@pytest.mark.parametrize(
    "rungs",
    [[], [missing("stock"), missing("device")], [rung("float", [clip("c", "a", "a")])]],
)
def test_results_with_little_in_them(rungs):
    page = render_report(result(rungs), {})
    assert b"No recording has an error" in page
    assert b"nan" not in page


@pytest.mark.parametrize(
    ("snr", "says"),
    [(math.nan, "no figure"), (None, "no figure"), (math.inf, "no noise"), (-math.inf, "all noise"), (-2.0, "-2.0 dB")],
)
def test_noise_that_is_no_plain_figure(snr, says, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(toy_result(layer_noise={"clips": 1, "layers": [noise("encoder.conv1", snr)]})))
    page = render_report(read_result(path), {})
    assert says in Tags(page).text
    assert not re.search(rb'="(nan|inf|-)', page)


def test_no_layers_at_all():
    render_report(toy_result(layer_noise={"clips": 0, "layers": []}), {})


def test_a_long_list_of_layers_is_folded():
    page = render_report(toy_result(layer_noise={"clips": 1, "layers": [noise(str(i), i) for i in range(100)]}), {})
    assert "70 layers with less noise" in Tags(page).text


def test_thousands_of_clips_make_a_page_of_bounded_size():
    clips = [clip(f"c{i}", SAID[i % 2] * 9, f"{i} wrong") for i in range(3000)]
    page = render_report(result([rung("float", [dict(c, text=SAID[0]) for c in clips]), rung("emulated", clips)]), {})
    assert len(page) < 300_000


def test_a_long_clip_is_cut():
    page = render_report(result([rung("float", [clip("c", "word " * 5000, "")])]), {})
    assert "… and 4700 more words" in Tags(page).text


def test_a_result_of_before_has_no_alignment():
    made = toy_result()
    for each in made["rungs"][2]["clips"]:
        del each["normalised_text"]
    assert "not aligned" in Tags(render_report(made, {})).text


def test_sound_that_cannot_be_had(sounds, tmp_path):
    paths, digests = sounds
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    bad = hashlib.sha256(b"RIFF").hexdigest()
    clips = [
        clip("c0", "a", "b", audio=digests["c0"]),
        clip("c1", "a", "b", audio="another"),
        clip("long", "a", "b", duration=LONGEST + 1, audio=digests["c0"]),
        clip("gone", "a", "b"),
        clip("bad", "a", "b", audio=bad),
        clip("unknown", "a", "b"),
    ]
    paths |= {"long": paths["c0"], "gone": tmp_path / "gone.wav", "bad": tmp_path / "bad.wav"}
    found = embed(clips, paths)
    assert found["c0"].uri
    reasons = {name: each.reason for name, each in found.items() if not each.uri}
    assert reasons["c1"] == "the file is not the one that was measured"
    assert reasons["long"].startswith("longer than")
    assert reasons["gone"].startswith("it can no longer be read (No such file")
    assert reasons["bad"].startswith("it can no longer be read ('bad.wav'")
    assert reasons["unknown"].startswith("no recording was given")


def test_a_result_names_files_without_their_folders(tmp_path):
    path = tmp_path / "it's.wav"
    with pytest.raises(AudioError) as raised:
        load_audio(path)
    assert without_folder(str(raised.value), path) == '"it\'s.wav": no such file'


def test_sound_has_a_budget(sounds):
    paths, digests = sounds
    clips = [clip(name, "a", "b", audio=digest) for name, digest in digests.items()]
    one = len(embed(clips[:1], paths)["c0"].uri)
    found = embed(clips, paths, one)
    assert found["c0"].uri
    assert found["c1"].reason == "this page holds as much sound as it takes already"


def change(*keys, to):
    def apply(made):
        for name in keys[:-1]:
            made = made[name]
        made[keys[-1]] = to
        return made

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (change("schema", to=99), "schema '99', this toolchain reads 1"),
        (change("schema", to=["x"]), "schema"),
        (change("rungs", 0, "score", "wer", to="<b>"), "rungs[0].score.wer: not a finite number"),
        (change("rungs", 0, "score", "wer", to=math.nan), "rungs[0].score.wer: not a finite number"),
        (change("rungs", 0, "score", "words", to=10**400), "rungs[0].score.words: not a count"),
        (change("rungs", 0, "seconds", to=10**400), "rungs[0].seconds: not a finite number"),
        (change("rungs", 0, "calls", to=True), "rungs[0].calls: not a count"),
        (change("rungs", 0, "clips", 1, to=None), "rungs[0].clips[1]: not an object"),
        (change("rungs", 0, "stages", to={"encoder": None}), "rungs[0].stages.encoder: not a finite number"),
        (change("rungs", 0, "stages", to={"a\nb": None}), "rungs[0].stages.a\\nb: not a finite number"),
        (change("rungs", 0, "status", to="odd"), "rungs[0].reason: missing"),
        (change("rungs", to={}), "rungs: not a list"),
        (change("bundle", to={}), "bundle.name: missing"),
        (change("layer_noise", to={"clips": 1, "layers": [noise("a", "loud")]}), "layers[0].own_snr_db: not a number"),
    ],
)
def test_other_json_is_refused_in_one_line(damage, says, tmp_path, capsys):
    made = toy_result()
    damage(made)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(made))
    with pytest.raises(EvaluationError, match=re.escape(says)):
        read_result(path)
    assert main(["report", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def places(value, path=()):
    """Where something can be changed in a result."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


ODD = [None, True, -1, 10**20, 10**400, 1e299, math.nan, math.inf, "", "\ud800", "\x00\x1b[2J", [], {}]


@given(st.sampled_from(list(places(full_result()))), st.sampled_from(["gone", *ODD]))
def test_a_damaged_result_is_refused_or_shown(tmp_path_factory, place, value):
    made = full_result()
    inside = made
    for key in place[:-1]:
        inside = inside[key]
    if value == "gone":
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_text(json.dumps(made))
    try:
        read = read_result(path)
    except EvaluationError:
        return
    assert not re.search(rb'="(nan|inf|-)', render_report(read, {}))
    assert "\x1b" not in comparison(read, toy_result()) + comparison(toy_result(), read)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "{}", "\x00", '{"schema": ' + "9" * 5000 + "}"])
def test_what_is_no_result_is_refused_in_one_line(text, tmp_path, capsys):
    path = tmp_path / "r.json"
    path.write_text(text)
    assert main(["report", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_page_is_made_again_from_the_json(sounds, tmp_path, capsys):
    paths, digests = sounds
    made = with_sound(toy_result(), digests)
    (tmp_path / "r.json").write_text(json.dumps(made))
    lines = [json.dumps({"id": name, "audio": path.name, "text": "x"}) for name, path in paths.items()]
    (tmp_path / "speech.jsonl").write_text("\n".join(lines))
    assert main(["report", str(tmp_path / "r.json")]) == 0
    assert (tmp_path / "r.html").read_bytes() == render_report(made, {})
    page = tmp_path / "with.html"
    assert main(["report", str(tmp_path / "r.json"), "--output", str(page), "--audio", f"{tmp_path}/speech.jsonl"]) == 0
    assert page.read_bytes() == render_report(made, paths)
    assert main(["report", str(tmp_path / "r.json"), "--output", str(tmp_path / "r.json")]) == 1
    assert "would replace the JSON" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    program = find_browser()
    if program is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH to look at the page with")
    try:
        opened = Browser(program)
    except OSError as error:
        pytest.skip(f"{program} does not start: {error}")
    with opened:
        yield opened


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_a_word(browser, sounds, tmp_path, width, dark):
    paths, digests = sounds
    made = with_sound(full_result(), digests)
    made["rungs"].append(missing("device+float", "x" * 300 + EVIL))
    path = tmp_path / "page.html"
    path.write_bytes(render_report(made, paths))
    browser.open(path, width, dark=dark)
    browser.wait_for("[...document.querySelectorAll('audio')].every(each => each.readyState >= 1 || each.error)")
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    lengths = browser.evaluate("[...document.querySelectorAll('audio')].map(each => each.duration)")
    assert sorted(lengths) == pytest.approx([1.0, 2.0], abs=0.1)
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 22, 26)" if dark else "rgb(255, 255, 255)")
    assert browser.problems == []
    assert {request.split(":")[0] for request in browser.requests} <= {"file", "data"}
    assert sum(request.startswith("file:") for request in browser.requests) == 1


def test_a_browser_runs_nothing_from_a_transcript(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(render_report(hostile(full_result()), {}))
    browser.open(path, 390)
    assert browser.evaluate("document.images.length + document.scripts.length") == 0
    assert browser.evaluate("document.title") != "evil"
    assert browser.problems == []


def test_a_browser_would_stop_a_script_that_got_in(browser, tmp_path):
    page = render_report(toy_result(), {}).replace(b"</body>", b"<script>document.title = 'evil'</script></body>")
    path = tmp_path / "page.html"
    path.write_bytes(page)
    browser.open(path, 390)
    assert browser.evaluate("document.title") != "evil"
    assert len(browser.problems) == 1
