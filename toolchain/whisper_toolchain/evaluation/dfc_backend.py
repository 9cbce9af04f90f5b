"""The graphs as Hailo's compiler holds them, run by its own emulation on this CPU: what it makes of them, step by step.

    dfc-native          as they were parsed
    dfc-optimised       with what does not change the precision, such as folded and equalised layers
    dfc-quantised       in the device's numbers

The networks are the HARs that the compiler's driver keeps below `build/<bundle>/dfc/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from whisper_runtime.closing import Closing
from whisper_runtime.errors import BackendError

from whisper_toolchain.compilers.dfc_checks import SET_DFC_PYTHON, VENDOR_PACKAGE, probe
from whisper_toolchain.compilers.dfc_inference import CONTEXTS, ServedNetwork
from whisper_toolchain.download import sha256_file
from whisper_toolchain.errors import CompileError
from whisper_toolchain.float_model import open_float_backend
from whisper_toolchain.recipe import GRAPHS
from whisper_toolchain.shape_plan import ShapePlan

FORMS = dict(zip(("dfc-native", "dfc-optimised", "dfc-quantised"), CONTEXTS, strict=True))
"""The compiler's inference context of each form."""

# Logits of one part of the vocabulary in two forms of a model; those of two parts have next to nothing in common.
_LEAST_CORRELATION = 0.5


@dataclass(frozen=True)
class DfcNetworks:
    """Networks of one compilation, and who can run them.

    Attributes:
        interpreter: the vendor's Python.
        version: of the compiler, "" if it does not say.
        folder: of the HARs.
    """

    interpreter: str
    version: str
    folder: Path

    @classmethod
    def find(cls, folder: Path, dfc_python: str | None) -> "DfcNetworks | str":
        """What a compilation left in a folder; in words if there is nothing, or nobody who can run it."""
        if not any((folder / f"{graph}.translated.har").is_file() for graph in GRAPHS):
            where = "/".join(folder.parts[-3:])  # who reads the result need not know the rest
            return f"no network (HAR) in {where}: compile with Hailo's compiler first (COMPILER=dfc)"
        try:
            tools = probe(dfc_python)
        except CompileError as error:
            return str(error)
        if tools is None:
            return f"{dfc_python or 'the current Python'} has no {VENDOR_PACKAGE}: {SET_DFC_PYTHON}"
        return cls(tools.interpreter, tools.version or "", folder)

    def har(self, graph: str, form: str) -> Path:
        """The HAR that a form of a graph is run from: the optimised one holds the steps before, too."""
        optimised = self.folder / f"{graph}.optimised.har"
        if form == "dfc-native" and not optimised.is_file():
            return self.folder / f"{graph}.translated.har"
        return optimised

    def missing(self, graph: str, form: str) -> str | None:
        """Why a form of a graph cannot be run; None if it can be tried."""
        har = self.har(graph, form)
        return None if har.is_file() else f"{har} is missing: compile with Hailo's compiler up to there (COMPILER=dfc)"

    def digest(self, graph: str, form: str) -> str:
        """Sha256 of the HAR."""
        return sha256_file(self.har(graph, form))


class DfcBackend(Closing):
    """One form of one or both graphs. Each is served by a process of its own.

    Args:
        networks: the HARs.
        form: one of `FORMS`.
        graphs: which of "encoder" and "decoder" are wanted.
        plan: the shapes.
        export: folder of the float graphs, which tell the parts of the vocabulary apart.

    Raises:
        BackendError: a network cannot be loaded.
    """

    lookahead = 0  # everything runs on the same cores

    def __init__(self, networks: DfcNetworks, form: str, graphs: Sequence[str], plan: ShapePlan, export: Path) -> None:
        self._plan = plan
        self._export = export
        self._order: list[int] | None = None
        self._served: dict[str, ServedNetwork] = {}
        try:
            for graph in graphs:
                log = networks.folder / f"{graph}.{form}.log"
                self._served[graph] = ServedNetwork(networks.interpreter, networks.har(graph, form), FORMS[form], log)
        except BaseException:
            self.close()
            raise

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """Mel (1, 100*s, 80) float32 -> features (1, 50*s, d) float32. Raises BackendError."""
        outputs = self._served["encoder"].infer([mel[None]])
        shape = (1, self._plan.feature_frames, self._plan.state)
        if len(outputs) != 1 or outputs[0].size != np.prod(shape):
            raise BackendError(f"dfc: the encoder's outputs are {[array.shape for array in outputs]}, not one {shape}")
        return outputs[0].reshape(shape)

    def decode(self, features: np.ndarray, token_embeddings: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        """Features (1, 50*s, d) and embeddings (n, 1, d) float32 -> logits (len(rows), vocab) float32.

        Raises BackendError.
        """
        inputs = [features[None], token_embeddings[None]]
        parts = []
        for array in self._served["decoder"].infer(inputs):
            if array.size % self._plan.sequence:
                raise BackendError(f"dfc: an output of the decoder is {array.shape}, which are no logits")
            parts.append(array.reshape(self._plan.sequence, -1))
        if self._order is None:
            self._order = self._tell_apart(parts, features, token_embeddings)
        return np.concatenate([parts[index][list(rows)] for index in self._order], axis=-1)

    def _tell_apart(self, parts: list[np.ndarray], features: np.ndarray, token_embeddings: np.ndarray) -> list[int]:
        """Which output is which part: the vendor documents no order, and three parts have the same shape."""
        with open_float_backend(self._export) as reference:
            logits = reference.decode(features, token_embeddings, range(self._plan.sequence))
        bounds = np.cumsum(self._plan.vocabulary_parts)[:-1]
        return order_of(parts, np.split(logits, bounds, axis=-1))

    def read_features(self, features: np.ndarray) -> np.ndarray:
        """The features themselves."""
        return features

    def sensors(self) -> None:
        """None: it runs on this CPU."""

    def close(self) -> None:
        """End the processes."""
        for served in self._served.values():
            served.close()


def order_of(parts: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> list[int]:
    """The place among `parts` of each of `references`, by shape and correlation.

    Raises:
        BackendError: a reference has no part that is like it, or two have the same.
    """
    order = []
    for number, reference in enumerate(references):
        likeness = {
            index: _correlation(part, reference) for index, part in enumerate(parts) if part.shape == reference.shape
        }
        best = max(likeness, key=likeness.__getitem__, default=None)
        if best is None or likeness[best] < _LEAST_CORRELATION:
            found = ", ".join(f"{value:.2f}" for value in likeness.values()) or "none of its shape"
            raise BackendError(
                f"dfc: no output of the decoder is like part {number} of the vocabulary in the float graph "
                f"(correlations {found}): was it compiled from this export?"
            )
        order.append(best)
    if sorted(order) != list(range(len(parts))):
        raise BackendError(f"dfc: the decoder's {len(parts)} outputs cannot be told apart: {order}")
    return order


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two arrays (rows, n), each row without its mean."""
    a, b = (array.astype(np.float64) - array.mean(axis=-1, keepdims=True) for array in (one, other))
    norm = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / norm if norm else 0.0
