"""Greedy decoding of many windows at once: the tokens that the runtime's slot decoder gives, many times faster.

The runtime computes all slots again for every token, because the accelerator keeps nothing from one call to the next.
Here torch keeps what it computed of the earlier tokens, and takes many windows in one product. The slots are the
accelerator's all the same: where they are full, the oldest tokens leave in the same blocks.

Three things make it fast:
- Cross-attention has no keys and values. A query q meets the features f as q (f K)^T = (q K^T) f^T, and the values are
  taken of the sum over f, not f of the values: K and V are applied to one token, not to hundreds of frames, and all
  that is kept of a window is its features.
- The vocabulary, half of the work, is multiplied by ONNX Runtime, which lays the weights out once and not for each
  product. Where the processor is quicker at bfloat16, it is looked through in that, and only the few tokens that lead
  are computed in full.
- Sums in another order differ in their last bits, so where two tokens are nearly as likely, the choice may differ from
  the runtime's. Such a text is not computed more exactly but marked, and whoever asked turns to the runtime's decoder.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto, helper
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention
from whisper_runtime.decoding import EOT_MARGIN, TEXT_LIMIT, finished, loop_at_end, may_end
from whisper_runtime.slot_decoder import dropped, fill_slots
from whisper_runtime.token_rules import TokenRules
from whisper_runtime.tokenizer import Tokenizer

from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.ort_session import open_session

# The logits of ONNX Runtime and of torch differ by 5e-5 at most (tiny.en, 24 windows of dev-clean, at every token).
CLOSE_LOGITS = 1e-2

# How many tokens are computed in full, and how far the others can be from what bfloat16 says: tiny.en has 0.15.
_CANDIDATES = 16
_COARSE_ERROR = 0.5

# Columns whose maximum is looked at first when the highest are sought.
_PART = 64

# Windows whose text has ended are taken out once they are so many, because taking them out copies the others.
_ENDED_SHARE = 0.25


@dataclass(frozen=True)
class BatchedText:
    """What one window says.

    Attributes:
        tokens: the text, without prompt and end of text.
        sure: False if a choice was so close that the runtime's decoder might have made another.
    """

    tokens: tuple[int, ...]
    sure: bool


class BatchedDecoder:
    """Decodes many windows in torch, on as many threads as torch is set to; several threads may do so at once.

    Args:
        checkpoint: the weights.
        sequence: slots of the accelerator's decoder.
        tokenizer: the model's tokenizer.
        prompt: the sot sequence; must leave a slot free.

    Attributes:
        prompt: the sot sequence.

    Raises:
        ValueError: the prompt fills the slots.
    """

    def __init__(self, checkpoint: Checkpoint, sequence: int, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        dropped(len(prompt), 0, sequence)  # raises
        dims, weights = checkpoint.dims, _Weights(checkpoint)
        self._sequence = sequence
        self._heads = dims.n_text_head
        self.prompt = tuple(prompt)
        self._tokenizer = tokenizer
        self._eot = tokenizer.eot
        self._embedding = weights("token_embedding.weight")
        self._positional = weights("positional_embedding")
        self._blocks = [_Block(weights, f"blocks.{i}", self._heads) for i in range(dims.n_text_layer)]
        self._norm = weights.pair("ln")
        self._head = _Head(self._embedding, TokenRules(tokenizer), self._eot)

    def decode(self, features: np.ndarray, seconds: Sequence[float]) -> list[BatchedText]:
        """Decode windows that are encoded.

        Args:
            features: (n, frames, d) float32.
            seconds: length of each window's sound, n values.

        Returns:
            n texts, each what it would be if it were decoded alone.
        """
        with torch.inference_mode():
            batch = _Batch(torch.from_numpy(features), self._sequence, len(self._blocks), self._heads)
            del features  # the batch gives up those of texts that have ended
            return self._decode(batch, seconds)

    def _decode(self, batch: "_Batch", seconds: Sequence[float]) -> list[BatchedText]:
        count = len(seconds)
        texts: list[list[int]] = [[] for _ in range(count)]
        leads: list[list[float]] = [[] for _ in range(count)]
        sure = [True] * count
        going = set(range(count))
        rows = list(range(count))  # the window of each row of the batch
        room = self._head.room(count)
        x = self._run(batch, [list(self.prompt)] * count, list(range(len(self.prompt))), 0)
        for length in range(TEXT_LIMIT):
            leaders = self._head.leaders(x, length == 0, room)
            for window, leader in zip(rows, leaders, strict=True):
                if window not in going:
                    continue
                token, is_sure = self._choose(leader, length, seconds[window])
                sure[window] &= is_sure
                text = texts[window]
                leads[window].append(leader.eot_behind)
                if token == self._eot:
                    texts[window], is_sure = self._finish(text, leads[window], seconds[window])
                    sure[window] &= is_sure
                    going.remove(window)
                    continue
                text.append(token)
                if repeated := loop_at_end(text, seconds[window]):
                    del text[-repeated:]
                    going.remove(window)
            if not going:
                break
            if len(rows) - len(going) > _ENDED_SHARE * len(rows):
                batch.keep([row for row, window in enumerate(rows) if window in going])
                rows = [window for window in rows if window in going]
            x = self._next(batch, [texts[window] for window in rows], length + 1)
        return [BatchedText(tuple(text), known) for text, known in zip(texts, sure, strict=True)]

    def _choose(self, leader: "_Leader", length: int, seconds: float) -> tuple[int, bool]:
        """The next token, and whether no other was close: the choice of `GreedyDecoder`."""
        is_sure = leader.lead > CLOSE_LOGITS
        if may_end(length, seconds):
            is_sure &= abs(leader.eot_behind - EOT_MARGIN) > CLOSE_LOGITS
            if leader.eot_behind <= EOT_MARGIN:
                return self._eot, is_sure
        return leader.token, is_sure

    def _finish(self, text: list[int], leads: list[float], seconds: float) -> tuple[list[int], bool]:
        """What to keep of an ended text, and whether leads that are off by a little would keep the same."""
        half = len(text) // 2 + 1  # the end of a first round is not behind this
        kept = [
            finished(self._tokenizer, text, [0.0], [lead + off for lead in leads[:half]] + leads[half:], 0.0, seconds)
            for off in (-CLOSE_LOGITS, CLOSE_LOGITS)
        ]
        return list(kept[0].tokens), kept[0] == kept[1]

    def _next(self, batch: "_Batch", texts: list[list[int]], length: int) -> torch.Tensor:
        """The state after texts of one length, (rows, d). Those that ended are shorter, and theirs mean nothing."""
        padded = [text + [self._eot] * (length - len(text)) for text in texts]
        prompt = len(self.prompt)
        gone = dropped(prompt, length, self._sequence)
        if gone == dropped(prompt, length - 1, self._sequence):
            last = prompt + length - 1
            return self._run(batch, [text[-1:] for text in padded], [last], last - gone)
        # Tokens have left, and what has seen them is computed anew.
        slots = [fill_slots(self.prompt, text, self._sequence) for text in padded]
        return self._run(batch, [ids for ids, _ in slots], slots[0][1], 0)

    def _run(self, batch: "_Batch", ids: list[list[int]], positions: list[int], first_slot: int) -> torch.Tensor:
        """Put tokens of all rows into the slots from `first_slot` on; return the state after the last, (rows, d)."""
        x = self._embedding[torch.tensor(ids)] + self._positional[torch.tensor(positions)]
        for index, block in enumerate(self._blocks):
            x = block(x, batch, index, first_slot)
        return _norm(x[:, -1], self._norm)


@dataclass(frozen=True)
class _Leader:
    """The likeliest token, by how much it leads, how far the end of text is behind it, all in logits."""

    token: int
    lead: float
    eot_behind: float


class _Head:
    """The vocabulary: which token leads after a state."""

    def __init__(self, embedding: torch.Tensor, rules: TokenRules, eot: int) -> None:
        self._embedding = embedding
        self._eot = eot
        self._first, self._later = (_forbidden(rules, text, len(embedding)) for text in ([], [0]))
        coarse, exact = embedding.bfloat16(), _Product(embedding)
        self._product: _Product | torch.Tensor = coarse if _is_quicker(coarse, exact) else exact

    def leaders(self, x: torch.Tensor, first: bool, room: torch.Tensor) -> list[_Leader]:
        """The leader after each of the states (rows, d).

        Args:
            x: the states.
            first: whether it would be its text's first token.
            room: (at least rows, vocab), for the logits: new memory for each step would take a tenth of its time.
        """
        forbidden = self._first if first else self._later
        logits = room[: len(x)]
        # Few tokens are forbidden: writing to them is much quicker than adding a row of zeros and infinities.
        if isinstance(self._product, _Product):
            self._product(x, logits)
            logits.index_fill_(1, forbidden, -torch.inf)
            best, tokens = _top(logits, 2)
            eot, lead = logits[:, self._eot], best[:, 0] - best[:, 1]
        else:
            logits.copy_(x.bfloat16() @ self._product.T).index_fill_(1, forbidden, -torch.inf)
            rough, candidates = _top(logits, _CANDIDATES)
            exact = (self._embedding[candidates] @ x[..., None])[..., 0]
            best, order = exact.topk(2)
            tokens = candidates.gather(1, order)
            eot = torch.full((len(x),), -torch.inf) if first else x @ self._embedding[self._eot]
            # What is no candidate may come up to the last of them and the error of bfloat16.
            lead = best[:, 0] - torch.maximum(best[:, 1], rough[:, -1] + _COARSE_ERROR)
        values = zip(tokens[:, 0].tolist(), lead.tolist(), (best[:, 0] - eot).tolist(), strict=True)
        return [_Leader(*value) for value in values]

    def room(self, rows: int) -> torch.Tensor:
        """Memory for the logits after so many states."""
        return torch.empty(rows, len(self._embedding))


def _top(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest of each row (rows, n) and their columns, in order: `torch.topk`, in a fraction of its time.

    They are all in those `count` parts of the row whose maxima are highest.
    """
    rows, size = logits.shape
    whole = size - size % _PART
    parts = logits[:, :whole].view(rows, -1, _PART).amax(-1)
    parts = parts.topk(min(count, parts.shape[1]))[1]
    columns = (parts[..., None] * _PART + torch.arange(_PART)).flatten(1)
    columns = torch.cat([columns, torch.arange(whole, size).expand(rows, -1)], 1)
    values, order = logits.gather(1, columns).topk(count)
    return values, columns.gather(1, order)


class _Product:
    """x -> x @ weight.T on one thread; several threads may call it at once."""

    def __init__(self, weight: torch.Tensor) -> None:
        """Lay out a weight (n, d) float32, whose memory is used as it is."""
        columns, size = weight.shape
        declared = TensorProto(name="weight", dims=weight.shape, data_type=TensorProto.FLOAT)
        # Given to the session below, and not in the file: that would be three copies on the way.
        declared.data_location = TensorProto.EXTERNAL
        declared.external_data.add(key="location", value="given")
        graph = helper.make_graph(
            [helper.make_node("Gemm", ["x", "weight"], ["product"], transB=1)],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", size])],
            [helper.make_tensor_value_info("product", TensorProto.FLOAT, ["rows", columns])],
            [declared],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        self._session = open_session(model.SerializeToString(), threads=1, weights={"weight": weight.numpy()})

    def __call__(self, x: torch.Tensor, product: torch.Tensor) -> None:
        """Write the product of x (rows, d) into `product` (rows, n), both contiguous float32."""
        binding = self._session.io_binding()
        for bind, name, tensor in ((binding.bind_input, "x", x), (binding.bind_output, "product", product)):
            bind(name, "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        self._session.run_with_iobinding(binding)


def _is_quicker(coarse: torch.Tensor, exact: _Product) -> bool:
    """Whether this processor multiplies by `coarse` (n, d), bfloat16, in less time than `exact` takes."""
    x = torch.zeros(16, coarse.shape[1])
    x_coarse, product = x.bfloat16(), torch.empty(len(x), len(coarse))

    def seconds(multiply: Callable[[], object]) -> float:
        start = time.perf_counter()
        multiply()
        return time.perf_counter() - start

    times = [(seconds(lambda: x_coarse @ coarse.T), seconds(lambda: exact(x, product))) for _ in range(3)]
    return min(of_coarse for of_coarse, _ in times) < min(of_exact for _, of_exact in times)


class _Weights:
    """Tensors of a checkpoint's decoder, float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._state = checkpoint.state

    def __call__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._state[f"decoder.{name}"].astype(np.float32))

    def pair(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of a layer; keys have no bias."""
        weight = self(f"{layer}.weight")
        return weight, torch.zeros(len(weight)) if layer.endswith(".key") else self(f"{layer}.bias")

    def joined(self, layers: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of layers with the same input, as one layer."""
        pairs = [self.pair(layer) for layer in layers]
        return torch.cat([weight for weight, _ in pairs]), torch.cat([bias for _, bias in pairs])


class _Block:
    """One residual block of the decoder: its weights."""

    def __init__(self, weights: _Weights, name: str, heads: int) -> None:
        self._heads = heads
        self._norms = {part: weights.pair(f"{name}.{part}") for part in ("attn_ln", "cross_attn_ln", "mlp_ln")}
        self._self = weights.joined([f"{name}.attn.{part}" for part in ("query", "key", "value")])
        self._self_out = weights.pair(f"{name}.attn.out")
        self._query = weights.pair(f"{name}.cross_attn.query")
        state = len(self._query[1])
        self._key, self._value = (
            weights(f"{name}.cross_attn.{part}.weight").view(heads, -1, state) for part in ("key", "value")
        )  # (heads, d / heads, d)
        self._value_bias = weights(f"{name}.cross_attn.value.bias")
        self._cross_out = weights.pair(f"{name}.cross_attn.out")
        self._mlp = weights.pair(f"{name}.mlp.0"), weights.pair(f"{name}.mlp.2")

    def __call__(self, x: torch.Tensor, batch: "_Batch", index: int, first_slot: int) -> torch.Tensor:
        """(rows, n, d) -> (rows, n, d), the n tokens being in the slots from `first_slot` on."""
        query, key, value = linear(_norm(x, self._norms["attn_ln"]), *self._self).chunk(3, -1)
        keys, values = batch.fill(index, self._split(key), self._split(value), first_slot)
        x = x + linear(self._attend(self._split(query), keys, values), *self._self_out)
        query = linear(_norm(x, self._norms["cross_attn_ln"]), *self._query)
        x = x + linear(self._attend_to_sound(query, batch.features), *self._cross_out)
        first, second = self._mlp
        return x + linear(gelu(linear(_norm(x, self._norms["mlp_ln"]), *first)), *second)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, n, d) -> (rows, heads, n, d / heads)."""
        return x.view(*x.shape[:2], self._heads, -1).transpose(1, 2)

    def _attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Attention of the latest tokens to all up to themselves."""
        scores = (query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        hidden = torch.full(scores.shape[-2:], -torch.inf).triu(1 + scores.shape[-1] - scores.shape[-2])
        found: torch.Tensor = (scores + hidden).softmax(-1) @ values
        return found.transpose(1, 2).flatten(2)

    def _attend_to_sound(self, query: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(rows, n, d) -> (rows, n, d). Each head has weights of its own, so heads come first where they are used."""
        rows, tokens, state = query.shape
        by_head = query.view(rows * tokens, self._heads, -1).transpose(0, 1)
        seeking = (by_head @ self._key).view(self._heads, rows, -1).transpose(0, 1).reshape(rows, 1, -1, state)
        sound = features[:, None]
        # Torch's own attention reads the features once, not once for the scores and once for the sum.
        attended = scaled_dot_product_attention(seeking, sound, sound, scale=(state // self._heads) ** -0.5)
        found = attended.view(rows, self._heads, -1).transpose(0, 1)
        values: torch.Tensor = found.reshape(self._heads, rows * tokens, state) @ self._value.transpose(1, 2)
        return values.transpose(0, 1).reshape(rows, tokens, state) + self._value_bias


class _Batch:
    """The windows of one batch: their features, and what each block keeps of their tokens."""

    def __init__(self, features: torch.Tensor, sequence: int, blocks: int, heads: int) -> None:
        rows, _, state = features.shape
        shape = (rows, heads, sequence, state // heads)
        self.features = features
        self._keys, self._values = ([torch.zeros(shape) for _ in range(blocks)] for _ in range(2))

    def fill(
        self, block: int, key: torch.Tensor, value: torch.Tensor, first_slot: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep n tokens, (rows, heads, n, d / heads), in the slots from `first_slot` on; return all up to them."""
        end = first_slot + key.shape[2]
        for kept, new in ((self._keys[block], key), (self._values[block], value)):
            kept[:, :, first_slot:end] = new
        return self._keys[block][:, :, :end], self._values[block][:, :, :end]

    def keep(self, rows: list[int]) -> None:
        """Forget all rows but these."""
        kept = torch.tensor(rows)
        self.features = self.features[kept]
        for tensors in (self._keys, self._values):
            tensors[:] = [tensor[kept] for tensor in tensors]


def _norm(x: torch.Tensor, weight_and_bias: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return layer_norm(x, x.shape[-1:], *weight_and_bias)


def _forbidden(rules: TokenRules, text: Sequence[int], n_vocab: int) -> torch.Tensor:
    """The tokens that the rules forbid after a text without timestamps."""
    row = np.zeros(n_vocab, np.float32)
    rules.apply(row, text)
    return torch.from_numpy(np.flatnonzero(row))
