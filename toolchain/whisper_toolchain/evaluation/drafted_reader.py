"""A reader whose accelerator decoder only checks what the host decoder has drafted: the same text in few calls."""

from collections.abc import Sequence

from whisper_runtime.backends import Backend, Features
from whisper_runtime.decoding import GreedyDecoder, loop_at_end
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.window_reader import Prompt, Reading, WindowReader
from whisper_runtime.windows import Window


class HostDrafter:
    """Guesses with the host decoder how the text of a window goes on; see `Drafter`.

    Where a guess was wrong it goes on behind the right token. The host keeps what it has computed until there.

    Args:
        host: has been given the window by `begin`.
        tokenizer: the model's tokenizer.
        prompt: what the text is asked for with.
        seconds: length of the window's sound.
    """

    def __init__(self, host: HostDecoder, tokenizer: Tokenizer, prompt: Prompt, seconds: float) -> None:
        self._host = host
        self._greedy = GreedyDecoder(host, tokenizer)
        self._eot = tokenizer.eot
        self._prompt = prompt
        self._seconds = seconds

    def guess(self, text: Sequence[int], count: int) -> Sequence[int]:
        """Up to so many tokens, fewer where the text ends or goes round in circles. Raises BackendError."""
        guessed = list(text)
        while len(guessed) < len(text) + count:
            last = len(self._prompt.tokens) + len(guessed) - 1
            (logits,) = self._host.logits(self._prompt.tokens, guessed, [last])
            token, _ = self._greedy.choose(logits, self._prompt.rules, guessed, self._seconds)
            if token == self._eot:
                break
            guessed.append(token)
            if loop_at_end(guessed, self._seconds):
                break
        return guessed[len(text) :]


class DraftedReader(WindowReader):
    """Checks with one decoder what another has drafted.

    Args:
        backend: runs the encoder.
        decoder: has the last word.
        host: drafts.
        tokenizer: the model's tokenizer.
        seconds: the encoder's window.
    """

    def __init__(
        self, backend: Backend, decoder: SlotDecoder, host: HostDecoder, tokenizer: Tokenizer, seconds: int
    ) -> None:
        super().__init__(backend, decoder, tokenizer, seconds)
        self._host = host

    def _decode_once(self, window: Window, features: Features, prompt: Prompt, draft: Sequence[int]) -> Reading:
        """Draft and check. What the host makes of these features is a better draft than the text of another look."""
        self._host.begin(features)
        self._decoder.begin(features)
        drafter = HostDrafter(self._host, self._tokenizer, prompt, window.seconds)
        return Reading(window, self._greedy.decode(prompt.tokens, prompt.rules, window.seconds, drafter))
