"""Stands for a model hub that knows one tokenizer: the miniature's own models use it, an installed bundle must not."""


class AutoTokenizer:
    """Spells each token as its number."""

    eos_token_id = 50257

    @classmethod
    def from_pretrained(cls, name):
        """Only the app's own variants are on this hub."""
        if name not in ("openai/whisper-tiny", "openai/whisper-base"):
            raise OSError(f"{name} is not on the hub")
        return cls()

    def decode(self, ids, skip_special_tokens=False):
        """Numbers, so that what a stock model gives can be compared exactly."""
        return " ".join(str(int(token)) for token in ids)
