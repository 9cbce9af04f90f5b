"""A reader whose accelerator decoder only checks what the host decoder has drafted: the same text in few calls."""

from collections.abc import Sequence

from whisper_runtime.backends import Backend, Features
from whisper_runtime.decoding import GreedyDecoder
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.window_reader import Prompt, Reading, WindowReader
from whisper_runtime.windows import Window


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
        self._drafter = GreedyDecoder(host, tokenizer)

    def glance(self, window: Window, features: Features, prompt: Prompt, draft: Sequence[int] = ()) -> Reading:
        """Draft and check. A further look has the text before for a draft."""
        if not draft:
            self._host.begin(features)
            draft = self._drafter.decode(prompt.tokens, prompt.rules, window.seconds).tokens
        return super().glance(window, features, prompt, draft)
