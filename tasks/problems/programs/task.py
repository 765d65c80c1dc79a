"""Program evaluation: read a short program, then say what it prints (Appendix E.3)."""

import functools
import random
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from gatecore import Batch, Mechanism, ModelSpec
from gatecore.tasks.problems.base import GeneratedTask, Scores, Stream, generator
from gatecore.tasks.problems.programs.grammars import GRAMMARS, Draw, Grammar

PAD = "\0"  # becomes the token -1
BUCKET = 8  # lengths are rounded up to its multiples: a backend that compiles sees few shapes
_PARTS = (Stream.VALIDATION, Stream.TEST) + 8 * (Stream.TRAIN,)  # of a program, by its hash
_RMC = {
    "quick": {"hidden_size": 64, "steps": 2000},
    "paper": {"hidden_size": 512, "steps": 200_000},
}
_GUESSED = 4096  # programs that frequencies are counted on, and as many that they are tried on


class Programs(GeneratedTask):
    """Read a program one character a step; then say, character by character, what it prints.

    Programs come from one of two grammars, drawn afresh for every batch:

    - ``santoro``, that of Sonnet's learn-to-execute example, with the paper's three categories.
      Literals have exactly ``length`` digits. An operation takes the result so far as ``a``, in
      parentheses: ``a+b`` (all there is in ``addition``); ``aifb>celsed`` or with ``<``, and
      ``x=afor[n]x+=b`` with n in 1..9 (both are ``control``); these, ``a-b`` and ``a*b`` are
      ``program``. The answer is taken modulo 10^(length + 1). The model reads nothing (zeros)
      while it answers.
    - ``zaremba``, that of Zaremba & Sutskever: sums, products with a small factor, conditions,
      variables and loops over several lines, ``#`` for a new line, ``@`` at the end. Literals are
      in 1..10^length, small factors and loops in 1..4 length; answers may be negative and end with
      a full stop, which is scored. At each step of the answer, in evaluation too, the model reads
      the right character before it (teacher forcing). It has one category, ``program``.

    One core reads and answers. The loss is the cross-entropy over the characters of the right
    answer, in nats per character, and the accuracy the share of them that are right.

    The curriculum sets the difficulty of training programs, each on its own: ``baseline``, always
    ``length`` and ``nesting``; ``mix``, the paper's, both uniform, from 1 to ``length`` and
    from 1 to ``nesting``; ``naive``, from 1 and 1 up, length first, and from 1 at each nesting;
    ``combined``, either of the two, ``mix`` one time in five. Validation and test programs have the
    full ``length`` and ``nesting``, as the test programs of both sources. By a hash of its text
    (CRC-32) a program may occur in only one of training, validation and test data (8, 1 and 1 parts
    of all programs); one of another part is drawn again.

    The paper does not state, and we infer: which of the two grammars was meant, and that all
    operations of a category are equally likely; a program's length and nesting are drawn once for
    all its literals (Zaremba's code draws the length anew for each); ``naive`` climbs every
    ``level_steps`` training steps (the originals climb by the model's scores, so that each
    mechanism would see other data); inputs are one-hot characters of the grammar's alphabet, the
    classes of the answer are its own characters alone, without hidden layers (Sonnet's example has
    four) between core and answer; parts of the split; the gradient is clipped by its global norm;
    validation and test sets are drawn once per seed. Programs of a batch end at the same step: the
    shorter ones begin later, with the state zeroed there, so that padding changes no answer; but
    steps before a program count in the means of its gates. The program part of a batch is padded to
    a multiple of 8 steps. ``quick`` is ours: two digits and four operations, with ``santoro`` of
    the category ``control``; for an RMC slots of 64 units, and 2000 steps.
    """

    name: ClassVar = "programs"
    score: ClassVar = "accuracy"
    presets: ClassVar = {
        "quick": dict(
            category="control", length=2, nesting=4, level_steps=250, hidden_size=128,
            batch_size=64, learning_rate=3e-3, steps=4000, evaluate_every=200,
            checkpoint_every=500, threads=1,
        ),
        "paper": dict(
            length=9, nesting=4, hidden_size=1024, batch_size=128, learning_rate=1e-3,
            steps=500_000, evaluate_every=1000, checkpoint_every=1000,
        ),
    }  # fmt: skip

    grammar: Literal["santoro", "zaremba"] = Field("santoro", description="of the programs")
    category: Literal["addition", "control", "program"] = Field(
        "program", description="which operations programs have"
    )
    curriculum: Literal["baseline", "naive", "mix", "combined"] = Field(
        "mix", description="how length and nesting of training programs are chosen"
    )
    length: int = Field(9, ge=1, le=12, description="digits of a literal")
    nesting: int = Field(4, ge=1, le=10, description="operations of a program")
    level_steps: int = Field(
        5000, ge=1, description="training steps at each level of naive and combined curricula"
    )

    @model_validator(mode="after")
    def _grammar_has_category(self) -> Self:
        if self.category not in (known := self._grammar.categories):
            raise ValueError(
                f"category={self.category!r} is none of grammar={self.grammar!r}, which has "
                f"{', '.join(known)} only"
            )
        return self

    @classmethod
    def preset(cls, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """As its table has it, but for the category, which is one of santoro's, and an RMC's sizes.

        The paper's slots are 512 wide (with 2 or 4 slots and heads), and trained for 2e5 steps.
        """
        values = dict(cls.presets[name])
        if settings.get("core") == "rmc":
            values |= _RMC[name]
        if settings.get("grammar", "santoro") != "santoro":
            values.pop("category", None)
        return values

    @property
    def title(self) -> str:
        kind = self.category.capitalize() if self.grammar == "santoro" else "Zaremba's programs"
        return f"{kind}, nesting {self.nesting}, length {self.length}"

    def spec(self, **model: Any) -> ModelSpec:
        return ModelSpec(
            input="one_hot", input_size=len(self._grammar.symbols),
            output_size=len(self._grammar.answers), read=self._read, loss="cross_entropy", **model,
        )  # fmt: skip

    def batch(self, seed: int, step: int, size: int) -> Batch:
        return self.sample(generator(seed, Stream.TRAIN, step), size, Stream.TRAIN, step)

    def held_out(self, stream: Stream, seed: int, size: int) -> list[Batch]:
        """Programs of the full length and nesting, whatever the curriculum."""
        total = self.test_size if stream is Stream.TEST else self.validation_size
        return [
            self.sample(generator(seed, stream, k), min(size, total - start), stream)
            for k, start in enumerate(range(0, total, size))
        ]

    def sample(
        self, rng: np.random.Generator, size: int, stream: Stream = Stream.TEST, step: int = 0
    ) -> Batch:
        """``size`` programs of one part of the split; the step sets their level in training."""
        return self._encoded(self.examples(rng, size, stream, step))

    def examples(
        self, rng: np.random.Generator, size: int, stream: Stream = Stream.TEST, step: int = 0
    ) -> list[tuple[str, str]]:
        """What :meth:`sample` encodes: programs with their answers, as text."""
        draw = random.Random(int.from_bytes(rng.bytes(16))).random
        program = self._grammar.program
        operations = self._grammar.categories[self.category]
        found = []
        for _ in range(size):
            level = (self.length, self.nesting) if stream else self._level(draw, step)
            while _part((example := program(draw, operations, *level))[0]) is not stream:
                pass
            found.append(example)
        return found

    def baselines(self) -> dict[str, Scores]:
        """Guesses from the frequency of the answers' characters, at each place, after each other.

        Frequencies are of 4096 training programs of the full length and nesting, scores of 4096
        test programs.
        """
        return _baselines(self)

    def mechanism_defaults(self, mechanism: Mechanism) -> dict[str, Any]:
        """The paper serves 32 units by each master gate here (Appendix D)."""
        return {"downsize": 32} if mechanism.auxiliary == "master" else {}

    @property
    def _grammar(self) -> Grammar:
        return GRAMMARS[self.grammar]

    @property
    def _read(self) -> int:
        """Steps in which the model answers."""
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
        """Programs that end together, then the steps that answer."""
        programs, answers = zip(*examples, strict=True)
        lengths = np.array([len(program) for program in programs])
        width = -(-lengths.max() // BUCKET) * BUCKET
        read, forced = self._read, self._grammar.forced
        inputs = np.full((width + read - forced, len(examples)), -1)
        inputs[:width] = _tokens((p.rjust(width, PAD) for p in programs), self._grammar.symbols)
        if forced:
            said = (a[:-1].ljust(read - 1, PAD) for a in answers)
            inputs[width:] = _tokens(said, self._grammar.symbols)
        targets = _tokens((a.ljust(read, PAD) for a in answers), self._grammar.answers)
        resets = np.zeros(inputs.shape, bool)
        resets[width - lengths, np.arange(len(examples))] = True
        return Batch(inputs, targets, resets)


def _part(program: str) -> Stream:
    """The one of training, validation and test data in which a program may occur."""
    return _PARTS[zlib.crc32(program.encode()) % len(_PARTS)]


def _tokens(texts: Iterable[str], symbols: str) -> np.ndarray:
    """(steps, texts): places of the characters of equally long texts, -1 for padding."""
    rows = list(texts)
    codes = np.frombuffer("".join(rows).encode(), np.uint8).reshape(len(rows), -1)
    return _table(symbols)[codes.T]


@functools.cache
def _table(symbols: str) -> np.ndarray:
    """The place in ``symbols`` of each character code."""
    table = np.full(256, -1)
    table[list(symbols.encode())] = np.arange(len(symbols))
    return table


@functools.lru_cache(maxsize=64)
def _baselines(task: Programs) -> dict[str, Scores]:
    hardest, grammar = task.model_copy(update={"curriculum": "baseline"}), GRAMMARS[task.grammar]
    train, test = (
        hardest.sample(generator(0, stream, 0), _GUESSED, stream)
        for stream in (Stream.TRAIN, Stream.TEST)
    )
    place = np.broadcast_to(np.arange(len(test.targets))[:, None], test.targets.shape)
    contexts = {
        "most frequent character": (0 * place, 0 * place),
        "most frequent at each place": (place, place),
    }
    if grammar.forced:
        seen, asked = (
            len(grammar.symbols) * place + part.inputs[-len(place) :] for part in (train, test)
        )
        contexts["most frequent at each place after each character"] = (seen, asked)
    return {
        name: _lookup(*pair, train.targets, test.targets, len(grammar.answers))
        for name, pair in contexts.items()
    }


def _lookup(
    seen: np.ndarray, asked: np.ndarray, answers: np.ndarray, truth: np.ndarray, classes: int
) -> Scores:
    """Scores on (asked, truth) of the answers' frequencies, add-one, in each context seen."""
    said, scored = answers >= 0, truth >= 0
    counts = np.ones((max(seen[said].max(), asked[scored].max()) + 1, classes))
    np.add.at(counts, (seen[said], answers[said]), 1)
    guess, right = counts[asked[scored]], truth[scored]
    loss = -np.log(guess[np.arange(len(right)), right] / guess.sum(1)).mean()
    return {"loss": float(loss), "accuracy": float((guess.argmax(1) == right).mean())}
