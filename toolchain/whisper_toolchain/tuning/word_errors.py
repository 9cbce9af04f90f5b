"""Word error rates of emulated graphs that are not in a bundle yet."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.canonical_json import canonical_digest
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.evaluation.code_digest import code_digest
from whisper_runtime.evaluation.metrics import compare
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.measuring import Clip, Journal, measure
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.timed_engine import TimedEngine
from whisper_runtime.verified_files import sha256_file

from whisper_toolchain.checkpoints import load
from whisper_toolchain.compilers.prepared_graph import FILES
from whisper_toolchain.download import Report
from whisper_toolchain.errors import EvaluationError, RecipeError
from whisper_toolchain.evaluation.drafted_reader import DraftedReader
from whisper_toolchain.float_model import host_arrays, load_tokenizer
from whisper_toolchain.recipe import GRAPHS
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stage import Stage, installed_versions
from whisper_toolchain.stages.evaluate import VERSIONS, choose_clips, normaliser_for
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.tuning.graph_tuner import GraphTuner
from whisper_toolchain.workspace import Workspace


@dataclass(frozen=True)
class Speech:
    """Recordings for the word error rate.

    Attributes:
        dataset: the speech; None for what was fetched.
        limit: recordings at most; None for all.
        seed: of the draw.
        language: code such as "en"; None to detect it in each recording.
    """

    dataset: Path | None = None
    limit: int | None = None
    seed: int = 0
    language: str | None = "en"


@dataclass
class WordErrors:
    """Word error rates of emulated graphs on recordings, each combination measured once and kept in a journal."""

    clips: list[Clip]
    dataset: str
    tuners: Mapping[str, GraphTuner]
    export: Path
    folder: Path
    journals: Path
    open_engine: Callable[[Path, Path], TimedEngine]
    normalise: Callable[[str], str]
    report: Report
    inputs: str
    known: dict[frozenset[tuple[str, frozenset[str]]], float] = dataclasses.field(default_factory=dict)
    failed: set[str] = dataclasses.field(default_factory=set)

    @classmethod
    def open(
        cls,
        workspace: Workspace,
        plan: ShapePlan,
        speech: Speech,
        exported: Stage,
        tuners: Mapping[str, GraphTuner],
        report: Report,
    ) -> "WordErrors":
        """Choose the recordings. Raises EvaluationError if none has a transcript."""
        clips, dataset = choose_clips(workspace, speech.dataset, speech.limit, speech.seed)
        fetched = Stage.read(workspace.checkpoint(plan.variant), f"fetch {plan.options}")
        tokenizer = load_tokenizer(workspace.whisper, plan.dims)
        embedding = TokenEmbedding(*host_arrays(load(fetched.folder / CHECKPOINT)))

        def open_engine(encoder: Path, decoder: Path) -> TimedEngine:
            backend = OnnxRuntimeBackend(encoder, decoder)
            drafter = HostDecoder(backend, embedding, exported.folder)
            slots = SlotDecoder(backend, embedding, plan.sequence)
            reader = functools.partial(DraftedReader, host=drafter, tokenizer=tokenizer, seconds=plan.seconds)
            return TimedEngine(backend, slots, tokenizer, plan.seconds, speech.language, reader)

        _, normalise = normaliser_for(workspace, speech.language)
        code = code_digest()
        inputs = repr((plan.shape_name, speech.language, code, installed_versions(*VERSIONS)))
        folder = workspace.root / "build" / plan.bundle_name / "tuning"
        journals = workspace.root / "build" / "evaluation"
        return cls(
            clips, dataset["name"], tuners, exported.folder, folder, journals, open_engine, normalise, report, inputs
        )

    @property
    def described(self) -> str:
        """The recordings in words: how many were measured, and how many could not be."""
        left_out = f" ({len(self.failed)} more could not be read)" if self.failed else ""
        return f"{len(self.clips) - len(self.failed)} recordings of {self.dataset}{left_out}"

    def points(self, wide: Mapping[str, frozenset[str]]) -> float:
        """How many points the rate is above the float graphs'. A graph that is not in `wide` stays in float."""
        return self.rate(wide) - self.rate(None)

    def rate(self, wide: Mapping[str, frozenset[str]] | None) -> float:
        """The word error rate in percent; None for the float graphs.

        Raises:
            RecipeError: no recording can be read.
            EvaluationError: the graphs fail on a recording.
        """
        asked = frozenset((wide or {}).items())
        if asked not in self.known:
            self.known[asked] = self._measure([self._graph(graph, wide or {}) for graph in GRAPHS])
        return self.known[asked]

    def _graph(self, name: str, wide: Mapping[str, frozenset[str]]) -> Path:
        """The file of a graph: quantised if it is in `wide`, else the float one."""
        if name not in wide:
            return self.export / FILES[name]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.onnx"
        onnx.save(self.tuners[name].quantise(wide[name]), path)
        return path

    def _measure(self, paths: list[Path]) -> float:
        key = canonical_digest([self.inputs, *map(sha256_file, paths)])
        journal = Journal(self.journals / f"{key[:24]}.jsonl")
        engines: list[TimedEngine] = []

        def engine() -> TimedEngine:
            engines.append(self.open_engine(*paths))
            return engines[0]

        errors = words = 0
        try:
            for clip, measured in zip(self.clips, measure(engine, self.clips, journal), strict=True):
                if measured.error and not measured.unreadable:
                    raise EvaluationError(f"{clip.id}: {measured.error}")
                if measured.error:
                    if clip.id not in self.failed:
                        self.report(f"tune-recipe: {clip.id}: {measured.error}")
                    self.failed.add(clip.id)
                    continue
                found = compare(clip.text or "", measured.text, self.normalise)
                errors, words = errors + found.errors, words + found.words
        finally:
            for each in engines:
                each.close()
        if not words:
            raise RecipeError("no recording with a transcript can be read")
        return 100.0 * errors / words
