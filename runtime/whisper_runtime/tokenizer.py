"""Whisper's tokens: byte-pair text tokens from a ranks file, then the special and the timestamp tokens."""

from __future__ import annotations

import binascii
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_runtime.errors import TokenizerError

if TYPE_CHECKING:
    from tiktoken import Encoding

# fmt: off
LANGUAGES: dict[str, str] = {
    "en": "English", "zh": "Chinese", "de": "German", "es": "Spanish", "ru": "Russian", "ko": "Korean",
    "fr": "French", "ja": "Japanese", "pt": "Portuguese", "tr": "Turkish", "pl": "Polish", "ca": "Catalan",
    "nl": "Dutch", "ar": "Arabic", "sv": "Swedish", "it": "Italian", "id": "Indonesian", "hi": "Hindi",
    "fi": "Finnish", "vi": "Vietnamese", "he": "Hebrew", "uk": "Ukrainian", "el": "Greek", "ms": "Malay",
    "cs": "Czech", "ro": "Romanian", "da": "Danish", "hu": "Hungarian", "ta": "Tamil", "no": "Norwegian",
    "th": "Thai", "ur": "Urdu", "hr": "Croatian", "bg": "Bulgarian", "lt": "Lithuanian", "la": "Latin",
    "mi": "Maori", "ml": "Malayalam", "cy": "Welsh", "sk": "Slovak", "te": "Telugu", "fa": "Persian",
    "lv": "Latvian", "bn": "Bengali", "sr": "Serbian", "az": "Azerbaijani", "sl": "Slovenian",
    "kn": "Kannada", "et": "Estonian", "mk": "Macedonian", "br": "Breton", "eu": "Basque",
    "is": "Icelandic", "hy": "Armenian", "ne": "Nepali", "mn": "Mongolian", "bs": "Bosnian", "kk": "Kazakh",
    "sq": "Albanian", "sw": "Swahili", "gl": "Galician", "mr": "Marathi", "pa": "Punjabi", "si": "Sinhala",
    "km": "Khmer", "sn": "Shona", "yo": "Yoruba", "so": "Somali", "af": "Afrikaans", "oc": "Occitan",
    "ka": "Georgian", "be": "Belarusian", "tg": "Tajik", "sd": "Sindhi", "gu": "Gujarati", "am": "Amharic",
    "yi": "Yiddish", "lo": "Lao", "uz": "Uzbek", "fo": "Faroese", "ht": "Haitian Creole", "ps": "Pashto",
    "tk": "Turkmen", "nn": "Nynorsk", "mt": "Maltese", "sa": "Sanskrit", "lb": "Luxembourgish",
    "my": "Myanmar", "bo": "Tibetan", "tl": "Tagalog", "mg": "Malagasy", "as": "Assamese", "tt": "Tatar",
    "haw": "Hawaiian", "ln": "Lingala", "ha": "Hausa", "ba": "Bashkir", "jw": "Javanese", "su": "Sundanese",
    "yue": "Cantonese",
}
# fmt: on
"""Language code to English name, in the order of Whisper's language tokens."""

# Vocabulary size of each kind of model: number of text tokens, number of language tokens. English-only
# models have the language tokens too, without having learned anything about them.
_VOCABULARIES = {51864: (50256, 99), 51865: (50257, 99), 51866: (50257, 100)}

# How GPT-2 splits text before it merges bytes: contractions, then words, numbers and other signs, each with
# the space before it, then the white space that is left.
_SPLIT_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d"
    r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)|\s+"
)

# Signs that annotate instead of being spoken: speaker tags, "[music]", "(laughs)" and the like. They are
# forbidden where they are one token of their own, with or without a space before them ...
_ANNOTATION_SIGNS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))"),
    *("[[", "]]", "{{", "}}", "♪♪", "♪♪♪"),
)
# ... and notes even where they are several tokens: then their first is forbidden, which they share with no
# other signs than those from U+2640 to U+267F.
_NOTE_SIGNS = "♩♪♫♬♭♮♯"

_TIMESTAMPS = 1501  # 0.00 s to 30.00 s in steps of 0.02 s


class Tokenizer:
    """Text to tokens and back, and the numbers of Whisper's special tokens.

    The special tokens follow the text tokens in the order: end of text, start of transcript, languages,
    translate, transcribe, start of LM, start of previous text, no speech, no timestamps, timestamps.

    Attributes:
        n_vocab: number of all tokens.
        multilingual: whether the model knows other languages than English.
        languages: codes of the languages that the model knows, in the order of their tokens.
        eot: end of text, ends each transcript.
        sot: start of transcript, starts each prompt.
        translate: task token, any language to English text.
        transcribe: task token, speech to text of the same language.
        sot_lm: start of language model, unused.
        sot_prev: start of previous text, before the prompt proper.
        no_speech: its probability right after `sot` says that nobody speaks.
        no_timestamps: ends the prompt where text without timestamps is wanted.
        timestamp_begin: 0.00 s; each further token is 0.02 s later.
    """

    def __init__(self, ranks: Mapping[bytes, int], n_vocab: int) -> None:
        """Build the tokenizer of one model.

        Args:
            ranks: each text token's bytes and number, 0 to len(ranks) - 1.
            n_vocab: the model's vocabulary size (51864, 51865 or 51866), which tells its special tokens.

        Raises:
            TokenizerError: the ranks are incomplete or do not belong to such a model.
        """
        if n_vocab not in _VOCABULARIES:
            known = ", ".join(map(str, _VOCABULARIES))
            raise TokenizerError(f"no Whisper model has {n_vocab} tokens, known are {known}")
        n_text, n_languages = _VOCABULARIES[n_vocab]
        if len(ranks) != n_text:
            raise TokenizerError(
                f"the vocabulary has {len(ranks)} text tokens, a model of {n_vocab} tokens needs {n_text}"
            )
        if sorted(ranks.values()) != list(range(n_text)):
            raise TokenizerError(f"the vocabulary is damaged: its numbers are not 0 to {n_text - 1}")
        # Any text can be spelled in single bytes, and must be: without one of them, encoding could fail.
        if not all(bytes([byte]) in ranks for byte in range(256)):
            raise TokenizerError("the vocabulary is damaged: single bytes are missing")

        self._ranks = dict(ranks)
        self._texts = sorted(ranks, key=ranks.__getitem__)
        self.n_vocab = n_vocab
        self.multilingual = n_text == 50257
        self.languages = tuple(LANGUAGES)[:n_languages] if self.multilingual else ("en",)
        self.eot = n_text
        self.sot = n_text + 1
        self.translate = self.sot + 1 + n_languages
        self.transcribe = self.translate + 1
        self.sot_lm = self.translate + 2
        self.sot_prev = self.translate + 3
        self.no_speech = self.translate + 4
        self.no_timestamps = self.translate + 5
        self.timestamp_begin = self.translate + 6

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], n_vocab: int) -> Tokenizer:
        """Read a ranks file of tiktoken's format (`multilingual.tiktoken`, `gpt2.tiktoken`).

        Args:
            path: a text file, one token a line: its bytes in base64, a space, its number.
            n_vocab: the model's vocabulary size (51864, 51865 or 51866).

        Raises:
            TokenizerError: the file is missing, damaged, or of another kind of model; the line names it.
        """
        name = repr(str(Path(path)))
        try:
            return cls(_parse_ranks(Path(path).read_bytes()), n_vocab)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise TokenizerError(f"{name}: the vocabulary cannot be read: {reason or error}") from error
        except TokenizerError as error:
            raise TokenizerError(f"{name}: {error}") from error

    def language_token(self, code: str) -> int:
        """The number of a language's token.

        Raises:
            TokenizerError: the model does not know this language.
        """
        if code not in self.languages:
            kind = "this model knows" if self.multilingual else "this model is English-only, it knows"
            raise TokenizerError(f"unknown language {code!r}, {kind}: {', '.join(self.languages)}")
        return self.sot + 1 + self.languages.index(code)

    def sot_sequence(self, language: str = "en", task: str = "transcribe", timestamps: bool = False) -> tuple[int, ...]:
        """The prompt that the model was trained to continue.

        Multilingual: start, language, task; English-only models know neither language nor task and get the
        start alone. Then "no timestamps", unless they are wanted.

        Raises:
            TokenizerError: the model does not know this language or task.
        """
        language_token = self.language_token(language)
        if task not in ("transcribe", "translate"):
            raise TokenizerError(f"unknown task {task!r}, there are: transcribe, translate")
        if task == "translate" and not self.multilingual:
            raise TokenizerError("this model is English-only, it cannot translate")
        sequence = [self.sot]
        if self.multilingual:
            sequence += [language_token, self.translate if task == "translate" else self.transcribe]
        if not timestamps:
            sequence.append(self.no_timestamps)
        return tuple(sequence)

    def encode(self, text: str) -> list[int]:
        """Text tokens of a text; what looks like a special token in it is plain text."""
        return self._encoding.encode_ordinary(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens. Special and timestamp tokens are skipped, incomplete characters become U+FFFD."""
        return b"".join(self._texts[token] for token in tokens if token < self.eot).decode("utf-8", errors="replace")

    @cached_property
    def _encoding(self) -> Encoding:
        """Made when a text is first encoded: transcribing only decodes, and this is half of the time to load."""
        import tiktoken

        # The special tokens stay out of it: text that happens to spell one must not become one.
        return tiktoken.Encoding(
            name=f"whisper-{self.n_vocab}", pat_str=_SPLIT_PATTERN, mergeable_ranks=self._ranks, special_tokens={}
        )

    def _longest_prefix(self, text: str) -> bytes:
        """The longest token that a text begins with; of the signs below, that is the first when they are encoded."""
        data = text.encode()
        return next(data[:end] for end in range(len(data), 0, -1) if data[:end] in self._ranks)

    @cached_property
    def non_speech_tokens(self) -> tuple[int, ...]:
        """Tokens of annotations that are not spoken, ascending; the same as openai-whisper's."""
        # A hyphen or an apostrophe within a word is fine, at its beginning it starts an annotation.
        found = {self._longest_prefix(" -"), self._longest_prefix(" '")}
        for sign in (*_ANNOTATION_SIGNS, *_NOTE_SIGNS):
            for text in (sign, " " + sign):
                token = self._longest_prefix(text)
                if token == text.encode() or sign in _NOTE_SIGNS:
                    found.add(token)
        return tuple(sorted(self._ranks[token] for token in found))

    @cached_property
    def suppress_tokens(self) -> tuple[int, ...]:
        """Tokens that are never sampled, ascending: openai-whisper's default (suppress_tokens="-1")."""
        prompt_only = {self.transcribe, self.translate, self.sot, self.sot_prev, self.sot_lm, self.no_speech}
        return tuple(sorted(prompt_only.union(self.non_speech_tokens)))

    @cached_property
    def blank_tokens(self) -> tuple[int, ...]:
        """Tokens that cannot be the first of a transcript: the space and the end."""
        return (self._ranks[b" "], self.eot)


def _parse_ranks(data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            text, rank = line.split()
            # The multilingual vocabulary has one empty token, which is spelled as bare padding.
            token = b"" if text == b"=" else binascii.a2b_base64(text)
            # Decoding alone passes over signs that are no base64.
            if token and binascii.b2a_base64(token, newline=False) != text:
                raise ValueError("not base64")
            value = int(rank)
        except (ValueError, binascii.Error) as error:
            raise TokenizerError(f"the vocabulary is damaged in line {number}") from error
        if token in ranks:
            raise TokenizerError(f"the vocabulary is damaged: line {number} repeats a token")
        ranks[token] = value
    return ranks
