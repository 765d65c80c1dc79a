"""Language modelling: predict the next word or character of a text (Appendix D.3)."""

import contextlib
import functools
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from gatecore import Batch, ModelSpec
from gatecore._checks import show
from gatecore.tasks.problems.base import Count, Decay, Scores, Size, Stream, Task, generator
from gatecore.tasks.problems.data_files import DataError, check_path
from gatecore.tasks.problems.language import encoding, ngrams
from gatecore.tasks.problems.language.encoding import Corpus, Tokens
from gatecore.tasks.problems.language.text_files import find, tenths
from gatecore.tasks.safe_files import parse_json, read_bytes, replacing

_WIKITEXT103 = {Stream.TRAIN: 103_227_021, Stream.VALIDATION: 217_646, Stream.TEST: 245_569}


class Language(Task):
    """Predict each next word or character of a text; the score is the perplexity, exp(loss).

    ``data`` is ``pydoc`` (CPython's help texts, embedded; they differ between Python versions,
    which ``config.json`` records), ``files`` with a folder as ``path``, or ``wikitext103``, which
    also checks the token counts. Training reads the text as a ring: ``batch_size`` streams start at
    equal distances, the first at a position drawn from the seed, and advance by ``bptt`` steps a
    batch. Gradients stop at the start of a batch; the state is carried over. A held-out text is cut
    into at most ``batch_size`` streams that start from a zero state; each token is scored once.

    The paper states WikiText-103, truncation to 128 steps and the reset of the state at articles.
    We infer: the reset comes before the step that predicts an article's first symbol, whose input
    is the ``<eos>`` before it; clipping by the gradient's global norm; one layer; separate
    embeddings of the hidden size (``tied`` shares one matrix, with the output layer's
    initialization); a full softmax, unless ``adaptive`` lists cutoffs; that the embedding dropout,
    which the paper swept over 0, .1, .2 and .3, drops single outputs of the embedding, not whole
    symbols (``locked_dropout``: features of a stream, for a batch); none by default; 50,000 steps
    in ``paper``, eight epochs of WikiText-103. ``quick`` is ours.

    DataError if a file is missing, damaged or not UTF-8, or the text is not that of ``content``.

    >>> batch = Language(level="character", bptt=20).batch(seed=0, step=0, size=3)
    >>> batch.inputs.shape, bool((batch.inputs[1:] == batch.targets[:-1]).all())
    ((20, 3), True)
    """

    name: ClassVar = "language"
    score: ClassVar = "perplexity"
    carries: ClassVar = True
    downsize: ClassVar = 32
    presets: ClassVar = {
        "quick": dict(hidden_size=128, batch_size=32, bptt=32, learning_rate=2e-3, clip_norm=0.1,
                      steps=600, min_count=2, evaluate_every=30, checkpoint_every=150, threads=1),
        "paper": dict(hidden_size=3072, batch_size=128, bptt=128, learning_rate=1e-3, clip_norm=0.1,
                      steps=50_000, evaluate_every=100, checkpoint_every=1000)}  # fmt: skip

    data: Literal["pydoc", "files", "wikitext103"] = Field(
        "pydoc", description="corpus; files and wikitext103 need a path"
    )
    path: str | None = Field(None, description="folder with the corpus")
    level: Literal["word", "character"] = Field("word", description="symbols of the text")
    bptt: int = Field(128, ge=1, le=100_000, description="steps through which gradients flow")
    min_count: Count = Field(1, description="rarer symbols become <unk>")
    vocabulary: int | None = Field(None, ge=3, le=10**8, description="maximum size, with <unk> and "
                                   "<eos>")  # fmt: skip
    embedding_size: Size | None = Field(None, description="null: the hidden size")
    embedding_dropout: Decay = Field(0.0, description="of the embedding's outputs")
    locked_dropout: bool = Field(False, description="drop a feature at all steps of a batch")
    tied: bool = Field(False, description="share the embedding with the output layer")
    adaptive: tuple[Count, ...] | None = Field(
        None, description="cutoffs of torch's adaptive softmax; null: a full softmax")  # fmt: skip
    content: str = Field("", description="identifies the text; determined from the data")
    symbols: int = Field(0, ge=0, le=10**9, description="size of the vocabulary; determined from "
                         "the data")  # fmt: skip

    @model_validator(mode="after")
    def _identify_text(self) -> Self:
        check_path(self.data, "pydoc", self.path)
        if bool(self.content) != bool(self.symbols):
            raise ValueError(f"content={show(self.content)} and symbols={self.symbols} are one "
                             "text's: give both or, as they are determined from the data, "
                             "neither")  # fmt: skip
        if not self.content:  # a recorded config can be read without its data
            corpus = self._corpus()
            object.__setattr__(self, "content", corpus.content)
            object.__setattr__(self, "symbols", len(corpus.symbols))
        return self

    @property
    def title(self) -> str:
        texts = {"pydoc": "Python's help", "wikitext103": "WikiText-103"}
        text = texts.get(self.data) or Path(self.path or "").name
        return f"Language, {text}, by {self.level}s"

    def spec(self, **model: Any) -> ModelSpec:
        return ModelSpec(input="embedding", input_size=self.symbols, output_size=self.symbols,
                         embedding_size=self.embedding_size, tied=self.tied, adaptive=self.adaptive,
                         embedding_dropout=self.embedding_dropout, loss="cross_entropy",
                         locked_dropout=self.locked_dropout, **model)  # fmt: skip

    def batch(self, seed: int, step: int, size: int) -> Batch:
        tokens = self.corpus().splits[Stream.TRAIN]
        first = int(generator(seed, Stream.TRAIN, 0).integers(len(tokens)))
        starts = first + len(tokens) * np.arange(size) // size + step * self.bptt
        places = (starts + np.arange(self.bptt)[:, None]) % len(tokens)
        return _window(tokens, places)

    def held_out(self, stream: Stream, seed: int, size: int) -> Sequence[Batch]:
        """The fixed split, the same for every seed."""
        return Windows(self.corpus().splits[stream], size, self.bptt)

    def corpus(self) -> Corpus:
        """The encoded text; DataError if it is another than ``content`` identifies."""
        corpus = self._corpus()
        if (corpus.content, len(corpus.symbols)) != (self.content, self.symbols):
            place, text = self.path or "pydoc_data.topics", f"the text {corpus.content}"
            raise DataError(place, f"{text} of {len(corpus.symbols)} symbols", f"{self.content} of "
                            f"{self.symbols}, which this run was made for; start another "
                            "run")  # fmt: skip
        return corpus

    def _corpus(self) -> Corpus:
        if self.path is None:
            return _topics(self.level, self.min_count, self.vocabulary)
        corpus = _files(self.path, self.level, self.min_count, self.vocabulary)
        checked = self.data == "wikitext103" and self.level == "word"
        for stream, expected in _WIKITEXT103.items() if checked else ():
            if (count := len(corpus.splits[stream])) != expected:
                raise DataError(self.path, f"{count:,} {stream.name.lower()} tokens", "WikiText-103"
                                f"'s {expected:,}; use data=files for another corpus")  # fmt: skip
        return corpus

    def scores(self, metrics: Mapping[str, float]) -> Scores:
        """The learner's metrics and the perplexity, exp(loss)."""
        return {**metrics, "perplexity": _perplexity(metrics["loss"])}

    def baselines(self) -> dict[str, Scores]:
        """Unigram and bigram models of the training text."""
        return _baselines(self)


class Windows(Sequence[Batch]):
    """A held-out text as consecutive batches of at most ``size`` streams, made on access."""

    def __init__(self, tokens: Tokens, size: int, bptt: int) -> None:
        self.tokens, self.bptt = tokens, bptt
        self.length = -(-len(tokens) // size)  # of a stream
        self.starts = np.arange(0, len(tokens), self.length)

    def __len__(self) -> int:
        return -(-self.length // self.bptt)

    def __getitem__(self, k: Any) -> Any:
        if isinstance(k, slice):
            return [self[i] for i in range(len(self))[k]]
        k = range(len(self))[k]
        steps = np.arange(k * self.bptt, min((k + 1) * self.bptt, self.length))
        places = self.starts + steps[:, None]
        # every token is the target of one step; steps beyond the text have -1, not scored
        beyond = places >= len(self.tokens)
        batch = _window(self.tokens, np.where(beyond, 0, places))
        return batch._replace(targets=np.where(beyond, -1, batch.targets))


def _window(tokens: Tokens, places: np.ndarray) -> Batch:
    """The steps that predict the tokens at ``places`` (time, batch) from those before them."""
    targets, inputs = tokens.at(places), tokens.at(places - 1)
    inputs[places == 0] = 1  # <eos> precedes the text
    following = tokens.starts.take(np.searchsorted(tokens.starts, places), mode="clip")
    return Batch(inputs, targets, following == places)


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


@functools.lru_cache(maxsize=4)
def _topics(level: str, min_count: int, limit: int | None) -> Corpus:
    from pydoc_data.topics import topics

    articles = [topics[name].rstrip("\n") + "\n" for name in sorted(topics)]
    version = ".".join(platform.python_version_tuple()[:2])  # a patch leaves the texts as they are
    content = f"Python {version}, {len(articles)} articles, {encoding._digest(articles)[:16]}"
    return encoding.in_memory(tenths(articles), level, min_count, limit, content)


@functools.lru_cache(maxsize=4)
def _files(path: str, level: str, min_count: int, limit: int | None) -> Corpus:
    folder = Path(os.path.expanduser(path))
    return encoding.load(folder, find(folder), level, min_count, limit)


def _baselines(task: Language) -> dict[str, Scores]:
    """Cached beside an encoded corpus that has a folder, as counting a large one takes a while."""
    corpus = task.corpus()
    if corpus.folder is None:
        return _count(corpus)
    cache = corpus.folder / "baselines.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored = parse_json(read_bytes(cache))
        if stored["sha256"] == encoding._digest(scores := stored["scores"]):
            return scores
    scores = _count(corpus)
    with contextlib.suppress(OSError), replacing(cache) as stream:  # it can be counted again
        content = {"scores": scores, "sha256": encoding._digest(scores)}
        stream.write(json.dumps(content).encode())
    return scores


@functools.lru_cache(maxsize=8)
def _count(corpus: Corpus) -> dict[str, Scores]:
    train, test = corpus.splits[Stream.TRAIN], corpus.splits[Stream.TEST]
    size = len(corpus.symbols)
    losses = {"unigram, add-one": ngrams.unigram_loss(train, test, size),
              "bigram, back-off": ngrams.bigram_loss(train, test, size)}  # fmt: skip
    return {name: {"loss": loss, "perplexity": _perplexity(loss)} for name, loss in losses.items()}
