"""Program evaluation: read a short program, then output what it prints (Appendix E.3)."""

import functools
import random
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from gatecore import Batch, ModelSpec
from gatecore._checks import Acts
from gatecore.tasks.problems import base
from gatecore.tasks.problems.base import Count, GeneratedTask, Scores, Stream, generator
from gatecore.tasks.problems.programs.grammars import GRAMMARS, Draw, Grammar

PAD = "\0"  # becomes the token -1
BUCKET = 8  # lengths are rounded up to multiples of it, so that a compiling backend sees few shapes
_SPLIT = (Stream.VALIDATION, Stream.TEST) + 8 * (Stream.TRAIN,)  # of programs, by their hash
# The paper's RMC has slots 512 wide (2 or 4 slots and heads) and 2e5 training steps.
_SIZES = {"rmc": {"quick": {"hidden_size": 64, "steps": 2000},
                  "paper": {"hidden_size": 512, "steps": 200_000}}}  # by core, preset  # fmt: skip
_COUNTED = 4096  # training and test programs of the frequency baselines


class Programs(GeneratedTask):
    """Read a program, one character a step; then output its result, character by character.

    The grammar ``santoro`` is that of Sonnet's learn-to-execute example, with the paper's three
    categories; ``zaremba`` that of Zaremba & Sutskever (*Learning to execute*, 2014), whose model
    reads the previous character of the target while it answers (teacher forcing). Programs are
    drawn for each batch, with a difficulty given by ``curriculum``; validation and test programs
    have the full ``length`` and ``nesting``. The loss is the cross-entropy over the characters of
    the target, in nats per character; the accuracy is the share of correct ones.

    The paper does not state, and we infer: which grammar; that the operations of a category are
    equally likely; that length and nesting are drawn once per program (Zaremba's code draws the
    length of each literal); that ``naive`` advances every ``level_steps`` training steps (the
    originals advance by the model's scores, so mechanisms would see different data); one-hot
    inputs; the answer's own characters as classes, without hidden layers between core and answer
    (Sonnet's example has four); the split, 8:1:1 by the CRC-32 of the text; clipping by the
    gradient's global norm; validation and test sets drawn once per seed. All programs of a batch
    end at the same step; shorter ones begin later, with a reset of the state, so padding changes no
    answer, but the means of a batch's gates include the steps before a program. ``quick`` is ours.

    >>> task = Programs(category="addition", length=2, nesting=2)
    >>> task.examples(np.random.default_rng(0), 2)
    [('(25+17)+60', '102'), ('(74+96)+77', '247')]
    """

    name: ClassVar = "programs"
    score: ClassVar = "accuracy"
    downsize: ClassVar = 32
    presets: ClassVar = {
        "quick": dict(category="control", length=2, nesting=4, level_steps=250, hidden_size=128,
                      batch_size=64, learning_rate=3e-3, steps=4000, evaluate_every=200,
                      checkpoint_every=500, threads=1),
        "paper": dict(length=9, nesting=4, hidden_size=1024, batch_size=128, learning_rate=1e-3,
                      steps=500_000, evaluate_every=1000, checkpoint_every=1000)}  # fmt: skip

    _acts: ClassVar[Acts] = {"level_steps": (
        lambda task: task.curriculum in ("naive", "combined"), "its curriculum has no levels")
    }  # fmt: skip

    grammar: Literal["santoro", "zaremba"] = Field("santoro", description="of the programs")
    category: Literal["addition", "control", "program"] = Field(
        "program", description="operations of the programs")  # fmt: skip
    curriculum: Literal["baseline", "naive", "mix", "combined"] = Field(
        "mix", description="difficulty of training programs")  # fmt: skip
    length: int = Field(9, ge=1, le=12, description="digits of a literal")
    nesting: int = Field(4, ge=1, le=10, description="operations of a program")
    level_steps: Count = Field(5000, description="training steps at each level of naive and "
                               "combined curricula")  # fmt: skip

    @model_validator(mode="after")
    def _check_category(self) -> Self:
        if self.category not in (known := self._grammar.categories):
            raise ValueError(f"category={self.category!r} is none of grammar={self.grammar!r}, "
                             f"which has {', '.join(known)} only")  # fmt: skip
        return self

    @classmethod
    def preset(cls, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The preset's values; an RMC's sizes are its own, and the category is santoro's."""
        values = {**cls.presets[name], **_SIZES.get(settings.get("core", ""), {}).get(name, {})}
        if settings.get("grammar", "santoro") != "santoro":
            values.pop("category", None)
        return values

    @property
    def title(self) -> str:
        kind = self.category.capitalize() if self.grammar == "santoro" else "Zaremba's programs"
        return f"{kind}, nesting {self.nesting}, length {self.length}"

    def spec(self, **model: Any) -> ModelSpec:
        inputs, outputs = len(self._grammar.symbols), len(self._grammar.answers)
        return ModelSpec(input="one_hot", input_size=inputs, output_size=outputs, read=self._read,
                         loss="cross_entropy", **model)  # fmt: skip

    def draw(self, stream: Stream, seed: int, index: int, size: int) -> Batch:
        return self.sample(generator(seed, stream, index), size, stream, index)

    def sample(self, rng: np.random.Generator, size: int, stream: Stream = Stream.TEST,
               step: int = 0) -> Batch:  # fmt: skip
        """``size`` programs of one split; in training, ``step`` determines the difficulty."""
        return self._encoded(self.examples(rng, size, stream, step))

    def examples(self, rng: np.random.Generator, size: int, stream: Stream = Stream.TEST,
                 step: int = 0) -> list[tuple[str, str]]:  # fmt: skip
        """The programs of :meth:`sample` with their answers, as text."""
        draw = random.Random(int.from_bytes(rng.bytes(16))).random
        program, operations = self._grammar.program, self._grammar.categories[self.category]
        examples = []
        for _ in range(size):
            level = (self.length, self.nesting) if stream else self._level(draw, step)
            split = None
            while split is not stream:
                example = program(draw, operations, *level)
                split = _SPLIT[zlib.crc32(example[0].encode()) % len(_SPLIT)]
            examples.append(example)
        return examples

    def baselines(self) -> dict[str, Scores]:
        """Character frequencies: overall, by position, and after the previous character.

        Counted on 4096 training programs and scored on 4096 test programs, of the full difficulty.
        """
        return _baselines(self)

    @property
    def _grammar(self) -> Grammar:
        return GRAMMARS[self.grammar]

    @property
    def _read(self) -> int:
        """The number of steps in which the model answers."""
        return self._grammar.longest(self.length, self.nesting)

    def _level(self, draw: Draw, step: int) -> tuple[int, int]:
        """Length and nesting of a training program."""
        if self.curriculum == "baseline":
            return self.length, self.nesting
        if self.curriculum == "mix" or (self.curriculum == "combined" and draw() < 0.2):
            return 1 + int(draw() * self.length), 1 + int(draw() * self.nesting)
        level = min(step // self.level_steps, self.length * self.nesting - 1)
        return 1 + level % self.length, 1 + level // self.length

    def _encoded(self, examples: list[tuple[str, str]]) -> Batch:
        """Programs padded on the left, then the steps of the answers."""
        programs, answers = zip(*examples, strict=True)
        lengths = np.array([len(program) for program in programs])
        width = -(-lengths.max() // BUCKET) * BUCKET
        read, forced = self._read, self._grammar.forced
        inputs = np.full((width + read - forced, len(examples)), -1)
        inputs[:width] = _tokens((p.rjust(width, PAD) for p in programs), self._grammar.symbols)
        if forced:
            previous = (a[:-1].ljust(read - 1, PAD) for a in answers)
            inputs[width:] = _tokens(previous, self._grammar.symbols)
        targets = _tokens((a.ljust(read, PAD) for a in answers), self._grammar.answers)
        resets = np.zeros(inputs.shape, bool)
        resets[width - lengths, np.arange(len(examples))] = True
        return Batch(inputs, targets, resets)


def _tokens(texts: Iterable[str], symbols: str) -> np.ndarray:
    """Tokens (steps, texts) of equally long texts, -1 for padding."""
    rows = [text.encode().translate(_table(symbols)) for text in texts]
    return np.frombuffer(b"".join(rows), np.int8).reshape(len(rows), -1).T.astype(int)


@functools.cache
def _table(symbols: str) -> bytes:
    """The token of each character code, 255 (−1) for others."""
    return bytes(symbols.find(chr(code)) % 256 for code in range(256))


@functools.lru_cache(maxsize=64)
def _baselines(task: Programs) -> dict[str, Scores]:
    hardest, grammar = task.model_copy(update={"curriculum": "baseline"}), GRAMMARS[task.grammar]
    splits = Stream.TRAIN, Stream.TEST
    train, test = (hardest.sample(generator(0, split, 0), _COUNTED, split) for split in splits)
    place = np.broadcast_to(np.arange(len(test.targets))[:, None], test.targets.shape)
    contexts = {"most frequent character": (0 * place, 0 * place),
                "most frequent at each place": (place, place)}  # fmt: skip
    if grammar.forced:
        contexts["most frequent at each place after each character"] = tuple(
            len(grammar.symbols) * place + part.inputs[-len(place) :] for part in (train, test)
        )
    targets, classes = (train.targets, test.targets), len(grammar.answers)
    pairs = {name: [(c[t >= 0], t[t >= 0]) for c, t in zip(parts, targets, strict=True)]
             for name, parts in contexts.items()}  # fmt: skip
    return {name: base.frequency_scores(splits, classes) for name, splits in pairs.items()}
