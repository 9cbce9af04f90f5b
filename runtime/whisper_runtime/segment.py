"""What a transcription is made of: segments of text, and what is known of the whole recording."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A word, and when it is said.

    Attributes:
        start, end: seconds from the recording's start.
        word: with the space before it, and the punctuation around it.
        probability: how likely the model holds its tokens, in the mean, 0 to 1.
    """

    start: float
    end: float
    word: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A piece of a recording and what is said in it.

    Attributes:
        start, end: seconds from the recording's start.
        text: what was said, without white space around it.
        tokens: the text's tokens.
        avg_logprob: mean natural log probability of the tokens that were read with these, in its window or part of one.
        no_speech_prob: how probable the model thinks it that nobody speaks there, 0 to 1.
        words: of the text, in order; None if they were not asked for.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None


@dataclass
class TranscriptionInfo:
    """What is known of a recording before its text.

    Attributes:
        language: code such as "en". If it is to be detected: at first that of the first window; it may change as the
            segments are read, until a window leaves little doubt.
        language_probability: of a detected language, 0 to 1; 1.0 if it was given.
        task: "transcribe" or "translate".
        duration: seconds; None if the file does not say.
    """

    language: str
    language_probability: float
    task: str
    duration: float | None
