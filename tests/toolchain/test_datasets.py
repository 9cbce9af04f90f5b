"""Every reader of speech, on small synthetic recordings."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from whisper_toolchain.datasets import (
    AudioFolder,
    Dataset,
    JsonLines,
    LibriSpeech,
    RegistrySample,
    Utterance,
    digest,
    fetch,
    get_speech,
    open_dataset,
    openslr,
    registry_sample,
    select,
)
from whisper_toolchain.datasets.registry_packages import PACKAGES, Clip, Package
from whisper_toolchain.download import UrlOpener, sha256_file
from whisper_toolchain.errors import DatasetError, DownloadError

RATE = 16000


def silent(_: str) -> None:
    """A report that nobody reads."""


def tone(path: Path, frequency: float = 440.0) -> Path:
    """Write a tenth of a second of a sine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.sin(2 * np.pi * frequency * np.arange(RATE // 10) / RATE)
    soundfile.write(path, wave.astype(np.float32), RATE)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A LibriSpeech root with one subset: speakers 12 and 7, three utterances."""
    root = tmp_path / "LibriSpeech"
    for speaker, chapter, count in (("12", "5", 2), ("7", "3", 1)):
        folder = root / "dev-clean" / speaker / chapter
        lines = []
        for number in range(count):
            name = f"{speaker}-{chapter}-{number:04d}"
            tone(folder / f"{name}.flac", 200 + 100 * number + int(speaker))
            lines.append(f"{name} WORDS OF {speaker} NUMBER {number}\n")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    (root / "README.TXT").write_text("read me")
    return root


@pytest.mark.parametrize("where", ["LibriSpeech/dev-clean", "LibriSpeech", ".", "LibriSpeech/dev-clean/"])
def test_librispeech_from_any_level(corpus: Path, where: str) -> None:
    dataset = open_dataset(corpus.parent / where)
    assert isinstance(dataset, LibriSpeech)
    assert dataset.name == "librispeech-dev-clean"
    assert "CC BY 4.0" in dataset.notice
    found = dataset.utterances()
    assert [utterance.id for utterance in found] == ["12-5-0000", "12-5-0001", "7-3-0000"]
    assert [utterance.speaker for utterance in found] == ["12", "12", "7"]
    assert found[1].text == "WORDS OF 12 NUMBER 1"
    assert all(utterance.path.is_file() for utterance in found)


def test_librispeech_of_two_subsets_wants_one(corpus: Path) -> None:
    shutil.copytree(corpus / "dev-clean", corpus / "test-other")
    with pytest.raises(DatasetError, match=r"several LibriSpeech subsets \(dev-clean, test-other\)"):
        open_dataset(corpus)


def break_transcript(chapter: Path) -> None:
    transcript = chapter / "12-5.trans.txt"
    transcript.write_text("".join(transcript.read_text().splitlines(keepends=True)[:1]))


def break_text(chapter: Path) -> None:
    (chapter / "12-5.trans.txt").write_text("12-5-0000 A\n12-5-0001\n")


def break_encoding(chapter: Path) -> None:
    (chapter / "12-5.trans.txt").write_bytes(b"12-5-0000 \xff\n")


def repeat_line(chapter: Path) -> None:
    transcript = chapter / "12-5.trans.txt"
    transcript.write_text(transcript.read_text() + "12-5-0001 AGAIN\n")


def repeat_recording(chapter: Path) -> None:
    shutil.copytree(chapter, chapter.parent / "6")


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (break_transcript, "no transcript for .*12-5-0001.flac"),
        (lambda chapter: (chapter / "12-5-0001.flac").unlink(), "no flac for 12-5-0001"),
        (break_text, "line 2: no transcript after 12-5-0001"),
        (break_encoding, "cannot read .*12-5.trans.txt"),
        (repeat_line, "line 3: 12-5-0001 is there twice"),
        (repeat_recording, "12-5-0000 is there twice"),
    ],
)
def test_librispeech_names_what_is_wrong(corpus: Path, breaks: Callable[[Path], None], message: str) -> None:
    breaks(corpus / "dev-clean" / "12" / "5")
    with pytest.raises(DatasetError, match=message):
        open_dataset(corpus).utterances()


def test_librispeech_for_an_evaluation_keeps_what_has_no_transcript(corpus: Path) -> None:
    """It is counted there; only a calibration set must be whole."""
    break_transcript(corpus / "dev-clean" / "12" / "5")
    dataset = open_dataset(corpus)
    dataset.keep_missing = True
    assert [item.text for item in dataset.utterances() if item.id == "12-5-0001"] == [None]


def test_a_folder_of_recordings(tmp_path: Path) -> None:
    for name in ("b.wav", "sub/a.FLAC", "c.ogg", "d.mp3", ".hidden.wav", ".git/e.wav"):
        tone(tmp_path / "mine" / name)
    (tmp_path / "mine/b.txt").write_text("\ufeff hello\n  world \n", encoding="utf-8")
    (tmp_path / "mine/notes.md").write_text("no recording")
    dataset = open_dataset(tmp_path / "mine")
    assert isinstance(dataset, AudioFolder)
    found = dataset.utterances()
    assert [(item.id, item.text) for item in found] == [
        ("b.wav", "hello world"),
        ("c.ogg", None),
        ("d.mp3", None),
        ("sub/a.FLAC", None),
    ]
    (tmp_path / "mine/b.txt").write_bytes(b"\xff")
    with pytest.raises(DatasetError, match=r"cannot read the transcript .*b\.txt"):
        dataset.utterances()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no recordings"):
        open_dataset(tmp_path / "empty").utterances()


def test_json_lines(tmp_path: Path) -> None:
    wav = tone(tmp_path / "audio/a.wav")
    other = tone(tmp_path / "elsewhere/b.wav")
    entries = [
        {"audio": "audio/a.wav", "text": "Grüße", "speaker": 7, "id": "z"},
        {"audio_filepath": str(other), "duration": 0.1, "offset": 0},
        {"audio": "./audio/a.wav", "text": None},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\ufeff" + "\n\n".join(json.dumps(entry) for entry in entries), encoding="utf-8")
    dataset = open_dataset(str(path))
    assert isinstance(dataset, JsonLines)
    assert dataset.utterances() == [
        Utterance("audio/a.wav", wav, None, None),
        Utterance("b.wav", other, None, None),
        Utterance("z", wav, "Grüße", "7"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", '"audio" must name a file'),
        ('{"audio": 3}', '"audio" must name a file'),
        ('{"audio": "none.wav"}', "there is no file 'none.wav'"),
        ('{"audio": "a\\u0000b"}', "there is no file"),
        (json.dumps({"audio": "x" * 5000}), "there is no file"),
        ('{"audio": "a.wav", "text": 3}', '"text" must be a string'),
        ('{"audio": "a.wav", "id": ""}', '"id" must be a string'),
        ('{"audio": "a.wav", "speaker": true}', '"speaker" must be a string'),
        ('{"audio": "a.wav", "offset": 1.5}', '"offset" is not supported'),
        ('{"audio": "a.wav"}', "'a.wav' is on line 1 too"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / "list.jsonl").write_text('{"audio": "a.wav"}\n\n' + line + "\n")
    with pytest.raises(DatasetError, match=f"line 3: .*{re.escape(message)}"):
        JsonLines(tmp_path / "list.jsonl").utterances()


def test_json_lines_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text("\n")
    with pytest.raises(DatasetError, match="lists no recordings"):
        JsonLines(path).utterances()
    path.write_bytes(b"\xff")
    with pytest.raises(DatasetError, match="cannot read"):
        JsonLines(path).utterances()


text = st.text(max_size=20)
value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
shared = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@shared
@given(entries=st.lists(st.tuples(text.filter(bool), st.none() | text), min_size=1, unique_by=lambda e: e[0]))
def test_json_lines_give_back_any_text(tmp_path: Path, entries: list[tuple[str, str | None]]) -> None:
    wav = tmp_path / "a.wav"
    wav.write_bytes(b"not read")
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(json.dumps({"audio": "a.wav", "id": i, "text": t}) for i, t in entries))
    found = JsonLines(path).utterances()
    assert [(item.id, item.text) for item in found] == sorted(entries)
    assert len(digest(found)) == 64


@shared
@given(
    line=text
    | value.map(json.dumps)
    | st.dictionaries(st.sampled_from(["audio", "text", "speaker", "id", "offset"]), value).map(json.dumps)
    | st.fixed_dictionaries({"audio": st.just("a.wav"), "text": value, "id": value}).map(json.dumps)
)
def test_json_lines_raise_nothing_else(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.wav").write_bytes(b"not read")
    path = tmp_path / "list.jsonl"
    path.write_text(line, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(DatasetError):
        digest(JsonLines(path).utterances())


def test_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no dataset at"):
        open_dataset(tmp_path / "none")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"neither a \.jsonl file nor a folder"):
        open_dataset(tmp_path / "a.bin")


def test_the_digest_does_not_depend_on_the_place(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus / "dev-clean", tmp_path / "other" / "renamed")
    here = open_dataset(corpus).utterances()
    there = open_dataset(tmp_path / "other").utterances()
    assert here != there
    assert digest(here) == digest(reversed(there))
    changed = [Utterance(u.id, u.path, u.text if u.speaker == "7" else None, u.speaker) for u in here]
    assert digest(changed) != digest(here)
    assert digest(here[:2]) != digest(here)
    tone(here[0].path, 999)
    assert digest(here) != digest(there)


def test_the_digest_itself(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"audio")
    audio = hashlib.sha256(b"audio").hexdigest()
    expected = hashlib.sha256(f'["one", "{audio}", "h\\u00e9"]\n["two", "{audio}", null]\n'.encode()).hexdigest()
    two, one = Utterance("two", tmp_path / "a", None, "x"), Utterance("one", tmp_path / "a", "hé", None)
    assert digest([two, one]) == expected
    with pytest.raises(DatasetError, match="cannot read"):
        digest([Utterance("three", tmp_path / "none", None, None)])


def test_the_draw_is_the_same_everywhere() -> None:
    items = [Utterance(f"u{number:02d}", Path("x"), None, None) for number in range(50)]
    drawn = [item.id for item in select(items, 6, 0)]
    assert drawn == ["u02", "u16", "u24", "u26", "u32", "u48"]
    assert [item.id for item in select(items[::-1], 6, 0)] == drawn
    assert [item.id for item in select(items, 6, 1)] != drawn
    assert select(items[::-1], 50, 0) == items
    assert select(items, 1000, 0) == items
    assert select(items, 0, 0) == []
    with pytest.raises(DatasetError, match="cannot select -1"):
        select(items, -1, 0)


def test_a_reader_of_ones_own(tmp_path: Path) -> None:
    class One(Dataset):
        name = "one"
        notice = "mine"

        @classmethod
        def fits(cls, path: Path) -> bool:
            return path.suffix == ".one"

        def utterances(self) -> list[Utterance]:
            return [Utterance("one", self.path, None, None)]

    assert One(tmp_path).utterances()[0].path == tmp_path


# The registry sample, from an index of files made here.


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Package, ...]:
    """One sdist with a wav and headerless samples, offered by a find-links folder."""
    wav = tone(tmp_path / "made" / "a.wav").read_bytes()
    raw = np.arange(1600, dtype="<i2").tobytes()
    header = b"RIFF" + (36 + len(raw)).to_bytes(4, "little") + b"WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00"
    header += b"\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00\x10\x00data" + len(raw).to_bytes(4, "little")
    links = tmp_path / "links"
    links.mkdir()
    with tarfile.open(links / "demo-1.tar.gz", "w:gz") as archive:
        for name, content in (("demo-1/a.wav", wav), ("demo-1/b.raw", raw), ("demo-1/setup.py", b"raise")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    clips = (
        Clip("a", "demo-1/a.wav", hashlib.sha256(wav).hexdigest(), "A", "s", text_as_shipped="AA"),
        Clip(
            "b",
            "demo-1/b.raw",
            hashlib.sha256(raw).hexdigest(),
            None,
            None,
            wav_sha256=hashlib.sha256(header + raw).hexdigest(),
        ),
    )
    return (Package("demo", "demo-1.tar.gz", sha256_file(links / "demo-1.tar.gz"), "mine", clips),)


def test_the_registry_sample(tmp_path: Path, packages: tuple[Package, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_sample, "PACKAGES", packages)
    root, downloads = tmp_path / "sample", tmp_path / "downloads"
    lines: list[str] = []

    def run(offline: bool) -> Path:
        return registry_sample.fetch_registry_sample(
            root, downloads, offline=offline, report=lines.append, packages=packages
        )

    assert run(offline=False) == root
    assert "2 clips, 0 s of speech (1 clips with text): a small sample, not a corpus" in lines[-1]
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    assert files == ["NOTICE.txt", "demo/a.wav", "demo/b.wav", "manifest.jsonl"]
    assert soundfile.info(root / "demo/b.wav").samplerate == RATE
    assert soundfile.read(root / "demo/b.wav", dtype="int16")[0].tolist() == list(range(1600))
    entries = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    assert entries[0]["text_as_shipped"] == "AA"
    assert entries[0]["source"] == "demo-1.tar.gz:demo-1/a.wav"

    dataset = open_dataset(root)
    assert isinstance(dataset, RegistrySample)
    assert [(u.id, u.text, u.speaker) for u in dataset.utterances()] == [
        ("demo-a", "A", "demo-s"),
        ("demo-b", None, None),
    ]

    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    run(offline=True)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times
    (root / "demo/b.wav").write_bytes(b"damaged")
    run(offline=True)  # out of the downloads
    assert sha256_file(root / "demo/b.wav") == packages[0].clips[1].wav_sha256
    shutil.rmtree(downloads)
    (root / "demo/b.wav").unlink()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(DownloadError, match="offline, and"):
        run(offline=True)


def test_a_clip_of_another_digest_is_refused(tmp_path: Path, packages: tuple[Package, ...]) -> None:
    package = packages[0]
    wrong = Clip("a", "demo-1/a.wav", "0" * 64, "A", None)
    changed = Package(package.project, package.filename, package.sha256, "", (wrong,))
    with pytest.raises(DownloadError, match=r"demo-1/a\.wav in .* has sha256"):
        registry_sample.fetch_registry_sample(
            tmp_path / "sample", tmp_path / "d", offline=False, report=silent, packages=(changed,)
        )
    assert not (tmp_path / "sample" / "manifest.jsonl").exists()
    assert list((tmp_path / "sample" / "demo").iterdir()) == []


def test_the_table_of_the_real_sample() -> None:
    clips = [(package, clip) for package in PACKAGES for clip in package.clips]
    assert len(clips) == 30
    assert len({(package.project, clip.name) for package, clip in clips}) == 30
    digests = [clip.file_sha256 for _, clip in clips] + [package.sha256 for package in PACKAGES]
    assert len(set(digests)) == 35
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in digests)
    assert all(package.notice for package in PACKAGES)
    corrected = {clip.name for _, clip in clips if clip.text_as_shipped}
    assert corrected == {"spk1-snt2", "spk2-snt1", "spk2-snt3", "spk2-snt5"}


# LibriSpeech dev-clean, from an archive made here.


@pytest.fixture
def archive(corpus: Path, tmp_path: Path) -> Path:
    """The corpus as the archive that OpenSLR has, already in the downloads."""
    path = tmp_path / "downloads" / openslr.NAME
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as file:
        file.add(corpus, "LibriSpeech")
    return path


def test_dev_clean_is_unpacked_once(archive: Path, corpus: Path, tmp_path: Path) -> None:
    def run() -> Path:
        return openslr.fetch_subset(
            tmp_path / "audio",
            archive.parent,
            ("https://nowhere.invalid/x",),
            sha256,
            offline=True,
            report=silent,
            open_url=UrlOpener(),
        )

    sha256 = sha256_file(archive)
    folder = run()
    assert folder == tmp_path / "audio/LibriSpeech/dev-clean"
    assert digest(open_dataset(folder).utterances()) == digest(open_dataset(corpus).utterances())
    archive.unlink()
    assert run() == folder


def test_speech_falls_back_to_the_sample(
    tmp_path: Path, packages: tuple[Package, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(root: Path, downloads: Path, **_: object) -> Path:
        return root

    monkeypatch.setattr(fetch.registry_sample, "fetch_registry_sample", sample)
    lines: list[str] = []
    audio, downloads = tmp_path / "audio", tmp_path / "downloads"
    assert get_speech(audio, downloads, offline=True, report=lines.append) == audio / "registry-sample"
    assert "dev-clean cannot be had (offline" in lines[0]

    def broken(*_: object, **__: object) -> Path:
        raise DownloadError("lost after 3 of 9 bytes")

    monkeypatch.setattr(fetch.openslr, "fetch_dev_clean", broken)
    downloads.mkdir()
    (downloads / "dev-clean.tar.gz.part").write_bytes(b"abc")
    with pytest.raises(DownloadError, match="lost after 3 of 9 bytes; or remove"):
        get_speech(audio, downloads, offline=False, report=lines.append)

    (audio / "LibriSpeech/dev-clean").mkdir(parents=True)
    monkeypatch.undo()
    assert get_speech(audio, downloads, offline=True, report=silent) == audio / "LibriSpeech/dev-clean"
