"""Language modelling: held-out text, streams, perplexities, baselines."""

import importlib.util
import itertools
import json
import math
import shutil
from collections import Counter

import numpy as np
import pytest

from gatecore import Batch, ModelSpec, backends
from gatecore.tasks import Config, load_run, train
from gatecore.tasks.problems.base import Stream
from gatecore.tasks.problems.data_files import DataError
from gatecore.tasks.problems.language import ngrams
from gatecore.tasks.problems.language.encoding import Tokens
from gatecore.tasks.problems.language.task import Language, Windows
from gatecore.tasks.training.config import ConfigError
from gatecore.tasks.training.run_folder import RunError
from tests.tasks.test_corpus import WIKI, write_wiki
from tests.tasks.test_trainer import Killed, die_at, remains

SMALL = {"hidden_size": 16, "batch_size": 4, "bptt": 5, "steps": 10, "log_every": 3,
         "evaluate_every": 5, "checkpoint_every": 4}  # fmt: skip


def tokens_of(count, rng, symbols=9, articles=()):
    ids = rng.integers(0, symbols, count).astype(np.uint32)
    return Tokens(ids, np.array([0, *articles], np.int64))


# --- held-out text ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 7, 64, 200])
@pytest.mark.parametrize("count", [1, 5, 100, 101])
def test_every_held_out_token_is_scored_once_after_its_predecessor(size, count, rng):
    tokens = tokens_of(count, rng)
    batches = Windows(tokens, size, bptt=7)
    assert len(batches) == len(list(batches))
    targets, inputs = (np.concatenate([b[k] for b in batches]).T.ravel() for k in (1, 0))
    scored = targets >= 0
    assert scored.sum() == count
    np.testing.assert_array_equal(targets[scored], tokens.ids)
    np.testing.assert_array_equal(inputs[scored], [1, *tokens.ids[:-1]])
    assert all(b.inputs.shape[1] == batches[0].inputs.shape[1] <= size for b in batches)
    assert all(len(b.inputs) <= 7 for b in batches)


@pytest.mark.parametrize("size", [1, 8, 32])
def test_held_out_scores_are_means_over_the_tokens(size):
    """The learner's mean weighs each token once."""
    config = Config.of("language", "U", hidden_size=4, batch_size=size)
    for stream in (Stream.VALIDATION, Stream.TEST):
        batches = config.task.held_out(stream, 0, size)
        counts = [int((batch.targets >= 0).sum()) for batch in batches]
        assert sum(counts) == len(config.task.corpus().splits[stream])
    learner = backends.load("numpy").Learner(config.spec(), dtype="float64")
    tokens = Tokens(config.task.corpus().splits[Stream.TEST].ids[:200], np.zeros(1, int))
    several, single = (Windows(tokens, size, bptt) for bptt in (3, 200))
    assert len(single) == 1 < len(several)
    losses = [learner.evaluate(batches)["loss"] for batches in (several, single)]
    assert losses[0] == pytest.approx(losses[1])


def test_an_articles_loss_does_not_depend_on_the_article_before(rng):
    """The state is reset before its first symbol is predicted, from the end of a line."""
    spec = ModelSpec(input="embedding", input_size=9, output_size=9, hidden_size=6, streams=1)
    learner = backends.load("numpy").Learner(spec, dtype="float64")
    both = tokens_of(40, rng, articles=(17,))
    both.ids[16] = 1
    parts = [Tokens(both.ids[:17], np.array([0])), Tokens(both.ids[17:], np.array([0]))]
    whole, *alone = (learner.evaluate(Windows(t, 1, 5))["loss"] * len(t) for t in (both, *parts))
    assert whole == pytest.approx(sum(alone), rel=1e-12)


# --- training text ------------------------------------------------------------------------------


def test_training_batches_are_consecutive_and_wrap_around_the_text():
    task = Language(bptt=50)
    tokens = task.corpus().splits[Stream.TRAIN]
    batches = [task.batch(seed=3, step=k, size=4) for k in range(len(tokens) // 200 + 2)]
    inputs, targets, resets = (np.concatenate([b[k] for b in batches]) for k in range(3))
    np.testing.assert_array_equal(inputs[1:], targets[:-1])
    ring = np.concatenate([tokens.ids, tokens.ids])
    starts = set(tokens.starts) | {s + len(tokens) for s in tokens.starts}
    for stream in range(4):
        text = targets[:, stream]
        ahead = [ring[k : k + len(tokens)] == text[k] for k in range(6)]
        places = np.flatnonzero(np.logical_and.reduce(ahead))
        first = next(k for k in places if (ring[k : k + len(text)] == text).all())
        restarts = {first + k for k in np.flatnonzero(resets[:, stream])}
        assert restarts == {s for s in starts if first <= s < first + len(text)}
    assert resets.sum() >= len(tokens.starts)  # each stream goes a little more than its quarter


def test_a_batch_depends_on_the_seed_and_the_step_only():
    task = Language()
    one, same, other = (task.batch(seed, 2, 8) for seed in (0, 0, 1))
    for part, equal in zip(one, same, strict=True):
        np.testing.assert_array_equal(part, equal)
    assert not np.array_equal(one.inputs, other.inputs)
    tasks = [Config.of("language", name, "paper").task for name in ("UR", "O", "standard")]
    assert tasks[0] == tasks[1] == tasks[2]


def test_the_help_texts_are_split_by_article():
    from pydoc_data.topics import topics

    task = Language(level="character")
    corpus, names = task.corpus(), sorted(topics)
    test = "".join(corpus.symbols[k] for k in corpus.splits[Stream.TEST].ids)
    text = "".join(topics[name].rstrip("\n") + "\n" for name in names[::10])
    assert test.replace("<eos>", "\n") == text.replace("\t", "\t")
    assert len(corpus.splits[Stream.VALIDATION].starts) == len(names[6::10])
    assert task.content.startswith("Python 3.")


# --- runs ---------------------------------------------------------------------------------------


def test_a_run_reports_perplexities(tmp_path):
    run = train(Config.of("language", **SMALL), tmp_path)
    assert run.summary["test"]["perplexity"] == pytest.approx(math.exp(run.summary["test"]["loss"]))
    lines = [line for line in run.metrics if line["split"] == "validation"]
    assert all(line["perplexity"] == pytest.approx(math.exp(line["loss"])) for line in lines)
    assert run.summary["best"]["perplexity"] == min(line["perplexity"] for line in lines)
    assert run.summary["baselines"] == run.config.task.baselines()


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_killed_run_resumes_to_the_same_result(backend, tmp_path):
    """JAX's learner is restored in ``test_carried``; it takes long to compile."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    settings = {"data": "files", "path": str(write_wiki(tmp_path)), "embedding_dropout": 0.2}
    config = Config.of(
        "language", "UM", backend=backend, threads=1, **settings, **SMALL | {"hidden_size": 32}
    )
    train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "died", on_step=die_at(7))
    train(config, tmp_path / "died", resume=True)
    assert remains(tmp_path / "died") == remains(tmp_path / "whole")


@pytest.mark.parametrize("settings", [{"content": "5"}, {"symbols": 7}])
def test_content_and_symbols_are_of_one_text(settings):
    named = {"content": "", "symbols": 0} | settings
    message = "content={content!r} and symbols={symbols} are one text's".format(**named)
    with pytest.raises(ConfigError, match=message):
        Config.of("language", **settings)
    assert Config.of("language", content="5", symbols=7).spec().input_size == 7


def test_a_config_of_before_the_embedding_dropout_means_none():
    config = Config.of("language", **SMALL)
    former = config.model_dump(mode="json")
    for name in ("embedding_dropout", "locked_dropout"):
        del former["task"][name]
    assert Config.model_validate(former) == config
    assert config.spec().embedding_dropout == 0.0


def test_a_run_is_read_without_its_corpus_and_not_resumed_on_another(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_wiki(corpus)
    settings = {**SMALL, "data": "files", "path": str(corpus)}
    config = Config.of("language", **settings)
    with pytest.raises(Killed):
        train(config, tmp_path / "run", on_step=die_at(7))
    write_wiki(corpus, {**WIKI, "train": WIKI["train"] + " more \n"})
    from gatecore.tasks.problems.language.task import _files

    _files.cache_clear()  # as in another process
    changed = Config.of("language", **settings)
    with pytest.raises(RunError, match=r"another config: task\.content"):
        train(changed, tmp_path / "run", resume=True)
    with pytest.raises(DataError, match=r"corpus: found the text .* which this run was made for"):
        train(config, tmp_path / "run", resume=True)
    shutil.rmtree(corpus)
    assert load_run(tmp_path / "run").config == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "x"}, "data='pydoc' needs no path, got path='x'"),
        ({"data": "files"}, "data='files' needs a path, .* got path=None"),
        ({"data": "files", "path": "/nowhere"}, "/nowhere: found no such file; expected a folder"),
        ({"level": "letter"}, "level='letter'"),
        ({"vocabulary": 2}, "vocabulary=2"),
        ({"tied": True, "embedding_size": 5}, "tied needs embedding_size=16 .*got 5"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Config.of("language", **SMALL | settings)
    assert "\n" not in str(caught.value)


def test_wikitext_103_is_checked_by_its_token_counts(tmp_path):
    write_wiki(tmp_path)
    with pytest.raises(ConfigError, match="train tokens; expected WikiText-103's 103,227,021"):
        Config.of("language", data="wikitext103", path=str(tmp_path))


# --- baselines ----------------------------------------------------------------------------------


def counted(train_ids, test_ids, size):
    """Losses of both models in pure Python, from their definitions."""
    words, firsts = Counter(train_ids), Counter()
    pairs = Counter(itertools.pairwise([1, *train_ids]))
    after = {}
    for (v, w), n in pairs.items():
        after.setdefault(v, {})[w] = n
        firsts[v] += n

    def single(w):
        return (words[w] + 1) / (len(train_ids) + size)

    def double(v, w):
        if v not in after:
            return single(w)
        if w in after[v]:
            return (after[v][w] - 0.75) / firsts[v]
        freed = 0.75 * len(after[v]) / firsts[v]
        return freed * single(w) / sum(single(u) for u in range(size) if u not in after[v])

    for v in range(size):
        assert sum(double(v, w) for w in range(size)) == pytest.approx(1)
    one = -sum(math.log(single(w)) for w in test_ids) / len(test_ids)
    two = -sum(math.log(double(v, w)) for v, w in itertools.pairwise([1, *test_ids]))
    return one, two / len(test_ids)


@pytest.mark.parametrize("pairs", [1, 30, 1 << 20])
def test_the_baselines_are_unigram_and_bigram_models(pairs, monkeypatch):
    rng = np.random.default_rng(5)
    monkeypatch.setattr(ngrams, "PAIRS", pairs)
    probabilities = np.r_[0.02, 0.1, 0.5 ** np.arange(1, 10)]
    ids = rng.choice(12, 500, p=np.r_[probabilities / probabilities.sum(), 0])
    ids[400:] = np.where(rng.random(100) < 0.1, 11, ids[400:])  # never seen in training
    train, test = (Tokens(part.astype(np.uint32), np.zeros(1, int)) for part in
                   (ids[:400], ids[400:]))  # fmt: skip
    blocks = Tokens.blocks
    monkeypatch.setattr(Tokens, "blocks", lambda self: blocks(self, 37))
    expected = counted(ids[:400].tolist(), ids[400:].tolist(), 12)
    assert ngrams.unigram_loss(train, test, 12) == pytest.approx(expected[0], rel=1e-12)
    assert ngrams.bigram_loss(train, test, 12) == pytest.approx(expected[1], rel=1e-12)


def test_baselines_are_cached_beside_the_corpus(tmp_path):
    task = Language(data="files", path=str(write_wiki(tmp_path)))
    scores = task.baselines()
    (cache,) = (tmp_path / ".gatecore").glob("*/baselines.json")
    assert json.loads(cache.read_text())["scores"] == scores == task.baselines()
    for values in scores.values():
        assert values["perplexity"] == pytest.approx(math.exp(values["loss"]))
    assert len([p for p in cache.parent.iterdir() if p.name.startswith(".")]) == 0
    for damaged in (
        cache.read_text().replace("loss", "gain", 1),
        "[" * 5000,
        "{}",
        '{"scores": 1}',
    ):
        cache.write_text(damaged)
        assert task.baselines() == scores


def test_a_batch_has_integer_tokens_and_boolean_resets():
    batch = Language().batch(0, 0, 3)
    assert isinstance(batch, Batch)
    assert batch.inputs.dtype.kind == batch.targets.dtype.kind == "i"
    assert (batch.resets.dtype, batch.resets.shape) == (np.bool_, (128, 3))
