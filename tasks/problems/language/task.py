"""Language modelling: predict each next word or character of a text (Appendix D.3)."""

import functools
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload

import numpy as np
from pydantic import Field, model_validator

from gatecore import Batch, Mechanism, ModelSpec
from gatecore.tasks.problems.base import Scores, Stream, Task, generator
from gatecore.tasks.problems.data_files import DataError
from gatecore.tasks.problems.language import encoding, ngrams
from gatecore.tasks.problems.language.corpus import find, tenths
from gatecore.tasks.problems.language.encoding import Corpus, Tokens

_WIKITEXT103 = {Stream.TRAIN: 103_227_021, Stream.VALIDATION: 217_646, Stream.TEST: 245_569}


class Language(Task):
    """Predict each next word (or character) of articles; the score is the perplexity, exp(loss).

    ``data=pydoc`` is CPython's own help texts, ``pydoc_data.topics``: 79 articles of some 65,000
    words in Python 3.11, others in other versions; a run's config names the version. In the order
    of their names, the first of every ten articles is for test, the seventh for validation. A few
    articles repeat parts of others: in Python 3.11 an eighth of the test lines are trained on.
    ``data=files`` with ``path=FOLDER`` reads ``wiki.{train,valid,test}.tokens``; or parquet files
    ``train*``, ``valid*`` and ``test*`` with a column ``text``, whose rows are lines; or ``.txt``
    files: ``train``, ``valid`` and ``test.txt``, folders of those names, or ten files and more,
    split as the help texts are. ``data=wikitext103`` reads the same and counts the tokens: they
    must be those of WikiText-103. Files are read as streams; their ids are kept beside them, in
    ``.gatecore``, or else in the user's cache folder, and are mapped into memory.

    In ``.tokens`` and parquet files words are what spaces separate, and an article starts at a line
    ``= Title =``. In other texts words are runs of letters and digits, and single marks; each
    file is an article. Every line ends with ``<eos>``, also among characters.

    The training text is a ring that ``batch_size`` streams read from places equally far apart, the
    first drawn from the seed, ``bptt`` steps a batch. Gradients stop where a batch starts; the
    state goes on. It is zeroed before the step that predicts the first symbol of an article, whose
    input is the end of the line before. A held-out text is cut into at most ``batch_size`` parts,
    read side by side from a zero state; each of its tokens is scored once.

    The paper does not state, and we infer: all of that but the resets themselves, truncation to
    128 steps and WikiText-103; that the gradient is clipped by its global norm; one layer; separate
    embeddings as wide as the hidden state (``tied`` shares one matrix, which then starts with the
    output layer's law); a full softmax, unless ``adaptive`` gives the sizes of frequent
    vocabularies at which clusters of torch's adaptive softmax end; no dropout; in ``paper`` 50,000
    steps, eight epochs of WikiText-103. ``quick`` is ours.
    """

    name: ClassVar = "language"
    score: ClassVar = "perplexity"
    carries: ClassVar = True
    presets: ClassVar = {
        "quick": dict(
            hidden_size=128, batch_size=32, bptt=32, learning_rate=2e-3, clip_norm=0.1, steps=600,
            min_count=2, evaluate_every=30, checkpoint_every=150, threads=1,
        ),
        "paper": dict(
            hidden_size=3072, batch_size=128, bptt=128, learning_rate=1e-3, clip_norm=0.1,
            steps=50_000, evaluate_every=1000, checkpoint_every=1000,
        ),
    }  # fmt: skip

    data: Literal["pydoc", "files", "wikitext103"] = "pydoc"
    path: str | None = Field(None, description="folder of the corpus")
    level: Literal["word", "character"] = "word"
    bptt: int = Field(128, ge=1, le=100_000, description="steps through which gradients flow")
    min_count: int = Field(1, ge=1, description="symbols that are rarer in training are <unk>")
    vocabulary: int | None = Field(None, ge=3, description="symbols at most, <unk> and <eos> too")
    embedding_size: int | None = Field(None, ge=1, description="null: the hidden size")
    tied: bool = Field(False, description="the output layer's weight is the embedding")
    adaptive: tuple[int, ...] | None = Field(
        None, description="where clusters of torch's adaptive softmax end; null: a full softmax"
    )
    content: str = Field("", description="what identifies the text; found, not chosen")
    symbols: int = Field(0, ge=0, description="size of the vocabulary; found, not chosen")

    @model_validator(mode="after")
    def _know_the_text(self) -> Self:
        if (self.data == "pydoc") != (self.path is None):
            wanted = "no path" if self.data == "pydoc" else "a path, the corpus's folder"
            raise ValueError(f"data={self.data!r} needs {wanted}, got path={self.path!r}")
        if not self.content:  # a config that was recorded needs no data to be read
            found = self._corpus()
            object.__setattr__(self, "content", found.content)
            object.__setattr__(self, "symbols", len(found.symbols))
        return self

    @property
    def title(self) -> str:
        texts = {"pydoc": "Python's help", "wikitext103": "WikiText-103"}
        text = texts.get(self.data) or Path(self.path or "").name
        return f"Language, {text}, by {self.level}s"

    def spec(self, **model: Any) -> ModelSpec:
        return ModelSpec(
            input="embedding", input_size=self.symbols, output_size=self.symbols,
            embedding_size=self.embedding_size, tied=self.tied, adaptive=self.adaptive,
            loss="cross_entropy", **model,
        )  # fmt: skip

    def batch(self, seed: int, step: int, size: int) -> Batch:
        tokens = self.corpus().splits[Stream.TRAIN]
        first = int(generator(seed, Stream.TRAIN, 0).integers(len(tokens)))
        starts = first + len(tokens) * np.arange(size) // size + step * self.bptt
        places = (starts + np.arange(self.bptt)[:, None]) % len(tokens)
        return _window(tokens, places)

    def held_out(self, stream: Stream, seed: int, size: int) -> Sequence[Batch]:
        """The seed has no part in it: the split is fixed."""
        return Windows(self.corpus().splits[stream], size, self.bptt)

    def corpus(self) -> Corpus:
        """The text, which must be the one that this task was made for."""
        found = self._corpus()
        if (found.content, len(found.symbols)) != (self.content, self.symbols):
            raise DataError(
                self.path or "pydoc_data.topics",
                f"the text {found.content} of {len(found.symbols)} symbols",
                f"{self.content} of {self.symbols}, which this run was made for",
            )
        return found

    def _corpus(self) -> Corpus:
        if self.vocabulary is not None and self.vocabulary < 3:
            raise ValueError(f"vocabulary must be 3 or more, got {self.vocabulary}")
        if self.path is None:
            return _topics(self.level, self.min_count, self.vocabulary)
        corpus = _files(self.path, self.level, self.min_count, self.vocabulary)
        if self.data == "wikitext103" and self.level == "word":
            _check_wikitext103(self.path, corpus)
        return corpus

    def scores(self, metrics: Mapping[str, float]) -> Scores:
        """With the perplexity, exp(loss)."""
        return {**metrics, "perplexity": _perplexity(metrics["loss"])}

    def baselines(self) -> dict[str, Scores]:
        """Guesses from counts of words, and of pairs of words, in the training text."""
        return _baselines(self)

    def mechanism_defaults(self, mechanism: Mechanism) -> dict[str, Any]:
        """The paper serves 32 units by each master gate here (Appendix D)."""
        return {"downsize": 32} if mechanism.auxiliary == "master" else {}


class Windows(Sequence[Batch]):
    """A held-out text as batches that continue one another, made when they are asked for.

    At most ``size`` streams, each a part of the text; every token is the target of one step. The
    shorter last parts are filled up with steps that are not scored.
    """

    def __init__(self, tokens: Tokens, size: int, bptt: int) -> None:
        self.tokens, self.bptt = tokens, bptt
        self.length = -(-len(tokens) // size)  # of a stream
        self.starts = np.arange(0, len(tokens), self.length)

    def __len__(self) -> int:
        return -(-self.length // self.bptt)

    @overload
    def __getitem__(self, k: int) -> Batch: ...
    @overload
    def __getitem__(self, k: slice) -> list[Batch]: ...
    def __getitem__(self, k: int | slice) -> Batch | list[Batch]:
        if isinstance(k, slice):
            return [self[i] for i in range(len(self))[k]]
        k = range(len(self))[k]
        steps = np.arange(k * self.bptt, min((k + 1) * self.bptt, self.length))
        places = self.starts + steps[:, None]
        beyond = places >= len(self.tokens)
        batch = _window(self.tokens, np.where(beyond, 0, places))
        return batch._replace(targets=np.where(beyond, -1, batch.targets))

    def __iter__(self) -> Iterator[Batch]:
        return (self[k] for k in range(len(self)))


def _window(tokens: Tokens, places: np.ndarray) -> Batch:
    """The steps that predict the tokens at ``places`` (time, batch) from those before them."""
    targets, inputs = tokens.at(places), tokens.at(places - 1)
    inputs[places == 0] = 1  # before the text comes the end of a line
    nearest = np.searchsorted(tokens.starts, places)
    following = tokens.starts[np.minimum(nearest, len(tokens.starts) - 1)]
    return Batch(inputs, targets, following == places)


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


@functools.lru_cache(maxsize=4)
def _topics(level: str, min_count: int, limit: int | None) -> Corpus:
    """CPython's help texts."""
    from pydoc_data.topics import topics

    articles = [topics[name].rstrip("\n") + "\n" for name in sorted(topics)]
    digest = encoding._digest(articles)[:16]
    version = ".".join(platform.python_version_tuple()[:2])  # a patch leaves the texts as they are
    content = f"Python {version}, {len(articles)} articles, {digest}"
    return encoding.in_memory(tenths(articles), level, min_count, limit, content)


@functools.lru_cache(maxsize=4)
def _files(path: str, level: str, min_count: int, limit: int | None) -> Corpus:
    folder = Path(path).expanduser()
    return encoding.load(folder, find(folder), level, min_count, limit)


def _check_wikitext103(path: str, corpus: Corpus) -> None:
    for stream, expected in _WIKITEXT103.items():
        found = len(corpus.splits[stream])
        if found != expected:
            split = stream.name.lower()
            raise DataError(
                path,
                f"{found:,} {split} tokens",
                f"WikiText-103's {expected:,}; other corpora are data=files",
            )


def _baselines(task: Language) -> dict[str, Scores]:
    """Kept beside an encoded corpus that has a folder: a large one takes a while to count."""
    corpus = task.corpus()
    if corpus.folder is None:
        return _count(corpus)
    kept = corpus.folder / "baselines.json"
    try:
        return json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        scores = _count(corpus)
    temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(scores), encoding="utf-8")
        temporary.replace(kept)
    except OSError:  # it can be counted again
        temporary.unlink(missing_ok=True)
    return scores


@functools.lru_cache(maxsize=8)
def _count(corpus: Corpus) -> dict[str, Scores]:
    train, test = corpus.splits[Stream.TRAIN], corpus.splits[Stream.TEST]
    size = len(corpus.symbols)
    losses = {
        "unigram, add-one": ngrams.unigram_loss(train, test, size),
        "bigram, back-off": ngrams.bigram_loss(train, test, size),
    }
    return {name: {"loss": loss, "perplexity": _perplexity(loss)} for name, loss in losses.items()}
