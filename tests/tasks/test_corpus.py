"""Text files become tokens: words, articles, vocabulary, cache, errors."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from gatecore.tasks.problems.base import Stream
from gatecore.tasks.problems.data_files import DataError
from gatecore.tasks.problems.language import encoding
from gatecore.tasks.problems.language.text_files import BLOCK, find

WIKI = {
    "train": " \n = First = \n \n the cat , the <unk> \n = = Part = = \n a 2 = 2 \n \n"
    " = Second One = \n \n the dog \n",
    "valid": " \n = Other = \n \n the bird \n",
    "test": " \n = Last = \n \n a cat \n the dog \n",
}


def write_wiki(folder, texts=WIKI):
    for split, text in texts.items():
        (folder / f"wiki.{split}.tokens").write_text(text, encoding="utf-8")
    return folder


def load(folder, level="word", min_count=1, limit=None):
    return encoding.load(folder, find(folder), level, min_count, limit)


def symbols_of(corpus, stream):
    """A split's symbols."""
    return [corpus.symbols[k] for k in corpus.splits[stream].ids]


def test_words_are_separated_by_spaces_and_every_line_ends_with_eos(tmp_path):
    corpus = load(write_wiki(tmp_path))
    lines = [line.split() for line in WIKI["train"].split("\n")[:-1]]
    assert symbols_of(corpus, Stream.TRAIN) == [word for line in lines for word in [*line, "<eos>"]]
    symbols = "<eos> = <unk> = <eos> <eos> a cat <eos> the dog <eos>"
    assert symbols_of(corpus, Stream.TEST) == symbols.split()
    assert symbols_of(corpus, Stream.VALIDATION)[-2:] == [
        "<unk>",
        "<eos>",
    ]  # not in the training text


def test_articles_start_at_titles_with_single_equal_signs(tmp_path):
    corpus = load(write_wiki(tmp_path))
    tokens, symbols = corpus.splits[Stream.TRAIN], symbols_of(corpus, Stream.TRAIN)
    assert [symbols[k : k + 3] for k in tokens.starts[1:]] == [["=", "First", "="],
                                                            ["=", "Second", "One"]]  # fmt: skip
    assert tokens.starts[0] == 0


def test_the_vocabulary_is_ordered_by_frequency_in_training(tmp_path):
    corpus = load(write_wiki(tmp_path))
    counts = Counter(WIKI["train"].split())
    del counts["<unk>"]
    expected = sorted(counts, key=lambda word: (-counts[word], word))
    assert corpus.symbols == ["<unk>", "<eos>", *expected]
    assert load(tmp_path, min_count=2).symbols == ["<unk>", "<eos>", *(
        word for word in expected if counts[word] > 1)]  # fmt: skip
    assert load(tmp_path, limit=5).symbols == corpus.symbols[:5]


def test_characters_are_symbols_and_a_line_ends_with_eos(tmp_path):
    texts = {**WIKI, "train": " = Ünicode = \nß\N{GRINNING FACE}x\n"}
    corpus = load(write_wiki(tmp_path, texts), level="character")
    symbols = ["<eos>" if c == "\n" else c for c in texts["train"]]
    assert symbols_of(corpus, Stream.TRAIN) == symbols
    known = set(texts["train"])
    symbols = ["<eos>" if c == "\n" else c if c in known else "<unk>" for c in texts["test"]]
    assert symbols_of(corpus, Stream.TEST) == symbols


def test_parquet_rows_are_lines(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    (tmp_path / "tokens").mkdir()
    (tmp_path / "rows").mkdir()
    expected = load(write_wiki(tmp_path / "tokens"))
    names = {"train": "train-00000-of-00001", "valid": "validation-0", "test": "test"}
    for split, name in names.items():
        rows = [line if line.strip() else "" for line in WIKI[split].split("\n")[:-1]]
        table = pyarrow.table({"id": range(len(rows)), "text": rows})
        parquet.write_table(table, tmp_path / "rows" / f"{name}.parquet")
    corpus = load(tmp_path / "rows")
    assert corpus.symbols == expected.symbols
    for stream in Stream:
        np.testing.assert_array_equal(corpus.splits[stream].ids, expected.splits[stream].ids)
        np.testing.assert_array_equal(corpus.splits[stream].starts, expected.splits[stream].starts)


def test_of_every_ten_text_files_one_tests_and_one_validates(tmp_path):
    for k in range(20):
        (tmp_path / f"{k:02}.txt").write_text(f"file {k}, isn't it?\n-----\nend")
    corpus = load(tmp_path)
    words = ["file", "10", ",", "isn", "'", "t", "it", "?", "<eos>", "-----", "<eos>", "end"]
    symbols = symbols_of(corpus, Stream.TEST)
    assert symbols == ["file", "<unk>", *words[2:], "<eos>"] * 2
    assert corpus.splits[Stream.TEST].starts.tolist() == [0, 13]
    assert len(corpus.splits[Stream.TRAIN]) == 16 * 13
    assert symbols_of(corpus, Stream.VALIDATION)[:3] == ["file", "<unk>", ","]
    assert find(tmp_path).files[Stream.VALIDATION] == [tmp_path / "06.txt", tmp_path / "16.txt"]


@pytest.mark.parametrize("layout", ["{}.txt", "{}/a.txt", "corpus.{}.txt"])
def test_files_and_folders_may_be_named_after_splits(layout, tmp_path):
    for split in ("train", "valid", "test"):
        path = tmp_path / layout.format(split)
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"some {split} text\n")
    symbols = [symbols_of(load(tmp_path), stream) for stream in Stream]
    assert symbols == [["some", "train", "text", "<eos>"]] + 2 * [
        ["some", "<unk>", "text", "<eos>"]
    ]


@pytest.mark.parametrize("ends", ["\n", "\r\n", " "])
def test_blocks_split_no_word_and_no_character(ends, tmp_path):
    """Text of several blocks, of characters of several bytes, with and without lines."""
    words = [f"wörd{k % 1000}€" for k in range(3 * BLOCK // 8)]
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_bytes((ends.join(words)).encode())
    pieces = list(find(tmp_path).pieces(Stream.TRAIN))
    assert len(pieces) > 1 + (ends != " ")
    assert [piece.starts for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert "".join(piece.text for piece in pieces).split() == words
    assert "\r" not in pieces[0].text


# --- the cache -------------------------------------------------------------------------------


@pytest.fixture
def made_folders(monkeypatch):
    """The folders that are encoded from here on."""
    made, original = [], encoding._make
    monkeypatch.setattr(encoding, "_make", lambda *a: (made.append(a[0]), original(*a)))
    return made


def test_a_corpus_is_encoded_once_for_its_content_and_settings(tmp_path, made_folders):
    write_wiki(tmp_path)
    first, again = load(tmp_path), load(tmp_path)
    assert len(made_folders) == 1
    assert isinstance(again.splits[Stream.TRAIN].ids, np.memmap)
    assert (first.symbols, first.content) == (again.symbols, again.content)
    load(tmp_path, min_count=2)
    write_wiki(tmp_path, {**WIKI, "test": " = Changed = \n"})
    changed = load(tmp_path)
    assert len(made_folders) == len(set(made_folders)) == 3
    assert changed.content != first.content
    assert {folder.parent for folder in made_folders} == {tmp_path / ".gatecore"}


def test_the_users_cache_is_used_if_the_corpus_is_read_only(tmp_path, made_folders, monkeypatch):
    (tmp_path / "corpus").mkdir()
    write_wiki(tmp_path / "corpus")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(encoding, "_writable", lambda folder: False)
    load(tmp_path / "corpus")
    load(tmp_path / "corpus")
    assert [folder.parent for folder in made_folders] == [
        tmp_path / "cache" / "gatecore" / "corpora"
    ]
    assert not (tmp_path / "corpus" / ".gatecore").exists()


def test_an_interrupted_encoding_leaves_nothing_and_a_damaged_one_is_repeated(
    tmp_path, made_folders, monkeypatch
):
    write_wiki(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "_vocabulary", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            load(tmp_path)
    left = list((tmp_path / ".gatecore").iterdir())
    assert [path.suffix for path in left] == [".lock"]
    ids = load(tmp_path).folder / "train.ids"
    whole = ids.read_bytes()
    ids.write_bytes(whole[:-4])
    assert load(tmp_path).folder == ids.parent
    assert ids.read_bytes() == whole
    assert len(made_folders) == 3


def exchanged(data):
    """Two ids exchanged: the counts stay."""
    ids = np.frombuffer(data, "<u4").copy()
    first = int(np.flatnonzero(ids != ids[0])[0])
    ids[[0, first]] = ids[[first, 0]]
    return ids.tobytes()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: data * 2,
                                    lambda data: b"[" * 5000, lambda data: b"NaN",
                                    lambda data: bytes([data[0] ^ 1]) + data[1:]])  # fmt: skip
@pytest.mark.parametrize("name", ["corpus.json", "vocabulary.json", "test.ids", "train.starts"])
def test_a_damaged_cache_is_made_again(name, damage, tmp_path, made_folders):
    folder = load(write_wiki(tmp_path)).folder
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / name).write_bytes(damage(whole[name]))
    load(tmp_path)
    assert len(made_folders) == 2
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole


def test_exchanged_ids_change_no_perplexity(tmp_path, made_folders):
    folder = load(write_wiki(tmp_path)).folder
    whole = (folder / "train.ids").read_bytes()
    (folder / "train.ids").write_bytes(exchanged(whole))
    corpus = load(tmp_path)
    assert corpus.splits[Stream.TRAIN].ids.tobytes() == whole
    assert len(made_folders) == 2


def test_the_cache_of_another_text_is_made_again(tmp_path, made_folders):
    """The files are intact, but of another source."""
    folder = load(write_wiki(tmp_path)).folder
    description = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**description, "content": "another"}))
    load(tmp_path)
    assert len(made_folders) == 2


def test_a_cache_that_is_a_link_is_refused_and_special_files_are_replaced(tmp_path, made_folders):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("precious")
    cache = write_wiki(tmp_path / "corpus") / ".gatecore"
    cache.symlink_to(tmp_path / "outside")
    assert "found a symbolic link; expected a folder" in error_of(tmp_path / "corpus")
    cache.unlink()
    folder = load(tmp_path / "corpus").folder
    for name in ("corpus.json", "train.ids"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        load(tmp_path / "corpus")
    lock = folder.with_suffix(".lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "outside" / "precious")
    (folder / "corpus.json").unlink()
    assert "lock is a symbolic link" in error_of(tmp_path / "corpus")
    assert (tmp_path / "outside" / "precious").read_text() == "precious"
    assert len(made_folders) == 3


def test_a_text_that_is_no_file_is_refused(tmp_path):
    write_wiki(tmp_path)
    (tmp_path / "wiki.test.tokens").unlink()
    (tmp_path / "wiki.test.tokens").symlink_to("/dev/zero")
    assert "no test split" in error_of(tmp_path)


def test_parallel_processes_encode_once(tmp_path):
    write_wiki(tmp_path)
    program = (
        "import sys; from pathlib import Path; from gatecore.tasks import encoding, corpus; "
        "p = Path(sys.argv[1]); "
        "c = encoding.load(p, corpus.find(p), 'word', 1, None); "
        "print(len(c.symbols), [t.ids.tolist() for t in c.splits.values()])"
    )
    command = [sys.executable, "-c", program, tmp_path]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(outputs)) == 1
    corpus = load(tmp_path)
    ids = [tokens.ids.tolist() for tokens in corpus.splits.values()]
    assert outputs[0].strip() == f"{len(corpus.symbols)} {ids}"
    assert len([p for p in (tmp_path / ".gatecore").iterdir() if p.is_dir()]) == 1


def test_tokens_are_stored_as_little_endian_uint32(tmp_path):
    corpus = load(write_wiki(tmp_path))
    data = (corpus.folder / "test.ids").read_bytes()
    ids = [int.from_bytes(data[k : k + 4], "little") for k in range(0, len(data), 4)]
    assert ids == corpus.splits[Stream.TEST].ids.tolist()
    assert json.loads((corpus.folder / "vocabulary.json").read_text()) == corpus.symbols


# --- errors ----------------------------------------------------------------------------


def error_of(folder):
    with pytest.raises(DataError, match=r"found .*; expected ") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_folder_and_a_missing_corpus_are_reported(tmp_path):
    assert f"{tmp_path / 'none'}: found no such file" in error_of(tmp_path / "none")
    assert "found none of them; expected wiki.{train,valid,test}.tokens" in error_of(tmp_path)
    (tmp_path / "one.txt").write_text("one")
    assert "found 1 .txt files; expected" in error_of(tmp_path)
    assert "cannot be read (Not a directory)" in error_of(tmp_path / "one.txt")


@pytest.mark.parametrize("missing", ["train", "valid", "test"])
def test_a_missing_split_is_reported(missing, tmp_path):
    write_wiki(tmp_path)
    (tmp_path / f"wiki.{missing}.tokens").unlink()
    message = error_of(tmp_path)
    assert str(tmp_path) in message
    assert f"expected wiki.{missing}.tokens" in message


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_split_is_reported(split, content, tmp_path):
    write_wiki(tmp_path, {**WIKI, split: content})
    assert f"wiki.{split}.tokens: found no text; expected" in error_of(tmp_path)
    assert [p.suffix for p in (tmp_path / ".gatecore").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"plain \xe9t\xe9 in Latin-1", "byte 0xe9 at offset 6"),
        ("UTF-16".encode("utf-16"), "byte 0xff at offset 0"),
        ("cut off €".encode()[:-1], "byte 0xe2 at offset 8"),
        (b"x" * (BLOCK + 5) + b"\xff", f"byte 0xff at offset {BLOCK + 5}"),
    ],
)
def test_the_byte_that_is_not_utf_8_is_reported(data, found, tmp_path):
    write_wiki(tmp_path)
    (tmp_path / "wiki.valid.tokens").write_bytes(data)
    message = error_of(tmp_path)
    assert f"wiki.valid.tokens: found {found}, which is not UTF-8; expected UTF-8 text" in message


def test_a_byte_order_mark_is_skipped(tmp_path):
    write_wiki(tmp_path)
    (tmp_path / "wiki.train.tokens").write_bytes(b"\xef\xbb\xbf = Title = \n text \n")
    assert symbols_of(load(tmp_path), Stream.TRAIN)[:2] == ["=", "Title"]


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({"body": ["a"], "id": [1]}, "found the columns body, id; expected a column 'text'"),
        ({"text": [1, 2]}, "found a column 'text' of type int64; expected strings in it"),
        (None, "found no parquet"),
    ],
)
def test_parquet_without_a_text_column_is_reported(table, found, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    for split in ("train", "valid", "test"):
        path = tmp_path / f"{split}.parquet"
        if table is None:
            path.write_bytes(b"PAR1 and nothing")
        else:
            parquet.write_table(pyarrow.table(table), path)
    message = error_of(tmp_path)
    assert f"{tmp_path / 'train.parquet'}: {found}" in message


def test_parquet_rows_that_are_not_utf_8_are_reported(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    for split in ("train", "valid", "test"):
        rows = [b"a b c\n", b"caf\xe9" if split == "valid" else b"caf\xc3\xa9"]
        table = pyarrow.table(
            {"text": pyarrow.array(rows, pyarrow.binary()).view(pyarrow.string())}
        )
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    message = error_of(tmp_path)
    assert f"{tmp_path / 'valid.parquet'}: found no parquet (" in message
    assert "0xe9" in message


@pytest.mark.parametrize(("rows", "length"), [(1, 4 << 20), (4000, 1000)])
def test_parquet_that_inflates_without_bound_is_refused(rows, length, tmp_path):
    """By a page that is compressed, or by a dictionary of one long row for many."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    table = pyarrow.table({"text": ["x " * (length // 2)] * rows})
    for split in ("train", "valid", "test"):
        parquet.write_table(table, tmp_path / f"{split}.parquet", compression="zstd")
    size = (tmp_path / "train.parquet").stat().st_size
    message = error_of(tmp_path)
    assert "train.parquet: found" in message
    assert f"bytes of text or more; expected at most {100 * size:,}, 100 for each byte" in message
    assert not list((tmp_path / ".gatecore").glob(".*"))


def test_a_missing_pyarrow_is_reported_with_its_extra(tmp_path, monkeypatch):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[language\]'"):
        load(tmp_path)
