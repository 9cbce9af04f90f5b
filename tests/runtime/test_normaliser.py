"""The runtime's normaliser gives what openai-whisper's own does."""

import importlib.metadata
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.errors import EvaluationError
from whisper_runtime.evaluation.normaliser import load_normaliser
from whisper_toolchain import third_party

WORDS = (
    "zero oh one two three nineteen twenty forty hundred thousand million point half and a double triple second th "
    "minus percent per cent dollars euro pounds cents colour theatre mr. mrs. won't can't I'd she's wanna 'cause "
    "cause kinda sorta uh hmm um [noise] (aside) $ £ 12 3,400 5.5 1st 1960s Café œuvre ﬁne ! ? - ' . , % & + ’"
)


@pytest.fixture(scope="module")
def whispers_own(patched_tree):
    return third_party.import_normalizers(patched_tree)


@pytest.fixture(scope="module")
def pairs(whispers_own):
    """(ours, Whisper's) for English and for other languages."""
    return (
        (load_normaliser("en")[1], whispers_own.EnglishTextNormalizer()),
        (load_normaliser("de")[1], whispers_own.BasicTextNormalizer()),
    )


def test_transcripts_of_real_speech(pairs, speech):
    for utterance in speech.utterances():
        for ours, theirs in pairs:
            assert ours(utterance.text or "") == theirs(utterance.text or "")


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(WORDS.split()), max_size=12).map(" ".join) | st.text(max_size=40))
def test_any_text(pairs, text):
    for ours, theirs in pairs:
        try:
            expected = theirs(text)
        except Exception as error:
            with pytest.raises(type(error)):
                ours(text)
        else:
            assert ours(text) == expected


@pytest.mark.parametrize("name", ["jiwer", "whisper_normalizer.english"])
def test_what_is_missing_is_named_with_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EvaluationError, match=r"pip install jiwer whisper-normalizer==0\.1\.1"):
        load_normaliser("en")


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.15")
    with pytest.raises(EvaluationError, match=r"0\.1\.15 does not normalise as Whisper does"):
        load_normaliser("en")
