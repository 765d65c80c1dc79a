"""MNIST's and CIFAR-10's files, written here byte by byte, are read; damaged ones are refused."""

import gzip
import io
import os
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from gatecore.tasks import Config
from gatecore.tasks.problems.base import Stream
from gatecore.tasks.problems.data_files import DataError
from gatecore.tasks.problems.pixels import image_files
from gatecore.tasks.problems.pixels.gzip_members import GzipMembers
from gatecore.tasks.problems.pixels.image_files import cifar10, mnist, read_idx
from gatecore.tasks.problems.pixels.task import Pixels, bit_reversal

MNIST = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
         "t10k-labels-idx1-ubyte"]  # fmt: skip
CIFAR = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]


def idx(array):
    """An IDX file of bytes: magic number, sizes, content."""
    magic = {1: 2049, 3: 2051}[array.ndim]
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def write_mnist(folder, rng, train=12, test=3, pack=lambda data: data, suffix=""):
    """Write MNIST's four files; return their arrays."""
    arrays = []
    for count in (train, test):
        arrays.append(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        arrays.append(rng.integers(0, 10, count, dtype=np.uint8))
    for name, array in zip(MNIST, arrays, strict=True):
        (folder / (name + suffix)).write_bytes(pack(idx(array)))
    return arrays


def python_batch(pixels, labels):
    """A batch as CIFAR-10's authors pickled it: Python 2, protocol 2, NumPy 1's names."""

    def short(data):
        return b"U" + bytes([len(data)]) + data

    def long(data):
        return b"T" + struct.pack("<i", len(data)) + data

    def integers(values):
        return b"".join(b"K" + bytes([value]) for value in values)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85" + short(b"b") + b"\x87R"  # _reconstruct(ndarray, (0,), "b")
        b"(K\x01J" + struct.pack("<i", len(pixels)) + b"M" + struct.pack("<H", 3072) + b"\x86"
        b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R"  # dtype("u1", 0, 1)
        b"(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + long(pixels.tobytes()) + b"tb"
    )
    items = short(b"batch_label") + short(b"testing batch 1 of 1") + short(b"labels")
    items += b"](" + integers(labels) + b"e" + short(b"data") + array
    return b"\x80\x02}(" + items + b"u."


def binary_batch(pixels, labels):
    return b"".join(
        bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True)
    )


def write_cifar(folder, rng, form, each=4):
    """Write CIFAR-10's six batches; return all pixels and labels, the test batch last."""
    pixels = rng.integers(0, 256, (6 * each, 3072), dtype=np.uint8)
    labels = rng.integers(0, 10, 6 * each)
    pack, suffix = {"python": (python_batch, ""), "binary": (binary_batch, ".bin")}[form]
    for k, name in enumerate(CIFAR):
        part = slice(k * each, (k + 1) * each)
        (folder / (name + suffix)).write_bytes(pack(pixels[part], labels[part].tolist()))
    return pixels, labels


# --- valid files ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_read_plain_and_compressed(suffix, tmp_path, rng):
    arrays = write_mnist(tmp_path, rng, pack=gzip.compress if suffix else bytes, suffix=suffix)
    train, test = mnist(tmp_path)
    for part, (images, labels) in ((train, arrays[:2]), (test, arrays[2:])):
        np.testing.assert_array_equal(part.pixels[..., 0], images.reshape(len(images), 784))
        np.testing.assert_array_equal(part.labels, labels)


@pytest.mark.parametrize("form", ["binary", "python"])
def test_cifar_is_read_in_both_versions(form, tmp_path, rng):
    """Step t has the three colours of row t // 32, column t % 32."""
    pixels, labels = write_cifar(tmp_path, rng, form)
    train, test = cifar10(tmp_path)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), labels)
    everything = np.concatenate([train.pixels, test.pixels])
    for image in (0, 5, 23):
        for step in (0, 31, 32, 1023):
            colours = [pixels[image, 1024 * plane + step] for plane in range(3)]
            assert everything[image, step].tolist() == colours


def test_the_folders_of_the_unpacked_archives_are_searched(tmp_path, rng):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    write_cifar(tmp_path / "cifar-10-batches-py", rng, "python")
    write_mnist(tmp_path / "MNIST" / "raw", rng)
    assert len(cifar10(tmp_path)[0].labels) == 20
    assert len(mnist(tmp_path)[0].labels) == 12


def test_an_array_pickled_by_numpy_is_read(tmp_path, rng):
    pixels, labels = write_cifar(tmp_path, rng, "python")
    for k, name in enumerate(CIFAR):
        part = slice(4 * k, 4 * k + 4)
        batch = {b"data": pixels[part], b"labels": labels[part].tolist()}
        data = pickle.dumps(batch, protocol=2)
        if b"_codecs" in data:  # Python 3 writes bytes so in protocol 2; the authors' files do not
            data = pickle.dumps(batch, protocol=3)
        (tmp_path / name).write_bytes(data)
    np.testing.assert_array_equal(cifar10(tmp_path)[0].labels, labels[:20])


# --- damaged files ----------------------------------------------------------------------------


def with_header(*numbers):
    return lambda data: struct.pack(f">{len(numbers)}I", *numbers) + data[4 * len(numbers) :]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (MNIST[0], with_header(2049), "found the magic number 2049; expected 2051"),
        (MNIST[1], with_header(2051), "found the magic number 2051; expected 2049"),
        (MNIST[0], lambda data: data[:-1], r"found 9407 bytes after the header; expected 9408"),
        (MNIST[0], lambda data: data + b"\0", r"found more bytes after the header; expected 9408"),
        (MNIST[0], lambda data: data[:11], "found 11 bytes; expected a header of 16"),
        (MNIST[3], lambda data: b"", "found 0 bytes; expected a header of 8"),
        (MNIST[0], with_header(2051, 2**32 - 1, 2**32 - 1, 2**32 - 1), "found 9408 bytes after"),
        (MNIST[2], with_header(2051, 3, 14, 56), "found images of 14 x 56 pixels; expected 28"),
        (MNIST[1], lambda data: data[:-1] + b"\x0a", "found the label 10; expected labels in 0..9"),
        (MNIST[3], lambda data: idx(np.zeros(2, np.uint8)), "found 2 labels; expected 3, one per"),
        (MNIST[2], None, "found no t10k-images-idx3-ubyte; expected a file"),
    ],
)
def test_the_error_about_a_damaged_idx_file_names_it_and_the_damage(
    name, damage, message, tmp_path, rng
):
    write_mnist(tmp_path, rng)
    path = tmp_path / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        mnist(tmp_path)
    assert str(tmp_path if damage is None else path) in str(caught.value)


def test_files_without_images_are_refused(tmp_path, rng):
    write_mnist(tmp_path, rng, test=0)
    with pytest.raises(DataError, match="found no images"):
        mnist(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-9], "found damaged gzip data"),
        (lambda data: data[:40] + bytes([data[40] ^ 255]) + data[41:], "found damaged gzip data"),
        (lambda data: gzip.decompress(data), "found damaged gzip data .*[Nn]ot a gzipped file"),
    ],
)
def test_the_error_about_a_damaged_gz_file_names_it(damage, message, tmp_path):
    path = tmp_path / "images.gz"
    whole = gzip.compress(idx(np.arange(784, dtype=np.uint8).reshape(1, 28, 28)))
    path.write_bytes(damage(whole))
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 2051)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 16])
def test_a_gz_file_may_have_members_and_padding(size, tmp_path, rng):
    """As bgzip and block devices write them; read in parts of any size."""
    content = idx(rng.integers(0, 256, (9, 28, 28), dtype=np.uint8)) + bytes(300_000)
    parts = [content[k : k + 1000] for k in range(0, len(content), 1000)]
    whole = b"".join(map(gzip.compress, [b"", *parts, b""])) + bytes(70_000)
    assert gzip.decompress(whole) == content
    with io.BufferedReader(GzipMembers(io.BufferedReader(io.BytesIO(whole))), 1 << 16) as file:
        assert b"".join(iter(lambda: file.read(size), b"")) == content
    with io.BufferedReader(GzipMembers(io.BufferedReader(io.BytesIO(whole))), size) as file:
        assert file.read() == content


def test_a_gz_file_of_a_million_empty_members_is_refused_unread(tmp_path, monkeypatch):
    path, members, inflate = tmp_path / "images.gz", [], zlib.decompressobj
    path.write_bytes(gzip.compress(b"") * 1_000_000)
    monkeypatch.setattr(zlib, "decompressobj", lambda **kw: members.append(0) or inflate(**kw))
    with pytest.raises(DataError, match=r"images\.gz: .*more than 10,000 members"):
        read_idx(path, 2051)
    assert len(members) == 10_000


def test_a_file_larger_than_any_of_images_is_refused_unread(tmp_path):
    for name in ("images", "images.gz"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 1 << 40)
        with pytest.raises(DataError, match=f"{name}: found 1,099,511,627,776 bytes; expected at"):
            read_idx(tmp_path / name, 2051)


def test_a_gz_file_longer_than_its_header_states_is_not_unpacked_completely(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((1, 28, 28), np.uint8)) + bytes(1 << 24)))
    with pytest.raises(DataError, match="found more bytes"):
        read_idx(path, 2051)


def cifar_refusal(folder, content, name="data_batch_3"):
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        cifar10(folder)
    assert str(folder / name) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found 0 bytes; expected a multiple of 3073"),
        (bytes(3072), "found 3072 bytes; expected a multiple of 3073"),
        (bytes(2 * 3073 + 1), "found 6147 bytes; expected a multiple of 3073"),
        (b"\x0a" + bytes(3072), "found the label 10; expected labels in 0..9"),
    ],
)
def test_the_error_about_a_damaged_binary_batch_names_it(content, message, tmp_path, rng):
    write_cifar(tmp_path, rng, "binary")
    assert message in cifar_refusal(tmp_path, content, "data_batch_3.bin")


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (python_batch(PIXELS, [1, 2])[:-50], "a pickle that is refused"),
        (b"no pickle", "a pickle that is refused"),
        (b"", "a pickle that is refused: pickle exhausted before seeing STOP"),
        (python_batch(PIXELS, [1, 10]), "found the label 10; expected labels in 0..9"),
        (python_batch(PIXELS, [1]), "found 1 labels; expected 2, one per image"),
        (pickle.dumps([1, 2]), "found no array as 'data'"),
        (pickle.dumps({b"data": b"bytes", b"labels": [1]}), "found no array as 'data'"),
        (pickle.dumps({b"data": PIXELS[:, :-1].copy(), b"labels": [1, 2]}), "of shape (2, 3071)"),
        (pickle.dumps({b"data": PIXELS.astype(float), b"labels": [1, 2]}), "dtype 'f8', not of"),
        (pickle.dumps({b"data": PIXELS, b"labels": ["a", 2]}), "found no list of integers"),
        (pickle.dumps({b"data": PIXELS, b"labels": [1, 10**30]}), "found labels beyond 32 bits"),
    ],
)
def test_the_error_about_a_damaged_python_batch_names_it(content, message, tmp_path, rng):
    write_cifar(tmp_path, rng, "python")
    assert message in cifar_refusal(tmp_path, content)


class Evil:
    """Pickled, it calls a function when the ordinary unpickler loads it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, exec, open, getattr, np.load])
def test_a_pickle_that_calls_a_function_is_refused(function, protocol, tmp_path, rng):
    write_cifar(tmp_path, rng, "python")
    marker = tmp_path / "executed"
    argument = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
    evil = Evil(function, argument)
    for batch in (evil, {b"data": evil, b"labels": [1]}, {b"labels": evil}):
        message = cifar_refusal(tmp_path, pickle.dumps(batch, protocol=protocol))
        assert "a pickle that is refused: it asks for" in message
    assert not marker.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1/0'\ntR.",
        b"(S'1/0'\nibuiltins\neval\n.",  # INST
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x031/0\x85R.",  # STACK_GLOBAL
        b"\x80\x02cnumpy\nndarray\n(K\x01tR.",  # the class may be named, not called
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01)N\x89U\x00tb.",  # no dtype
        b"Pnobody\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension
        b"\x80\x02cnumpy\nndarray\n}U\x01a}sb.",  # BUILD on a function
    ],
)
def test_hand_written_pickles_are_refused(code, tmp_path, rng):
    write_cifar(tmp_path, rng, "python")
    assert "expected" in cifar_refusal(tmp_path, code)


def peak_of(function, *arguments):
    """The message of a DataError, and the most bytes that were allocated for it."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            function(*arguments)
        return str(caught.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02)" + b"\x85" * 90_000 + b"}" + b"(" + b")" + b"\x85" * 90_000 + b"K\x01u.",
        b"\x80\x02}(" + b")" + b"\x85" * 90_000 + b"K\x01u.",  # a deep tuple as a key
        b"\x80\x02cnumpy\ndtype\n(" + b")" + b"\x85" * 90_000 + b"tR.",
        b"\x80\x02]r\xff\xff\xff\x3f.",  # a memo of 2**30 entries
        b"\x80\x02j\xff\xff\xff\x3f.",
        b"\x80\x04\x8e" + b"\xff" * 6 + b"\x00\x00.",  # bytes of 2**48
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x00.",  # a frame of that size
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # an integer of 2**31 bytes
        b"\x80\x02" + b"N0" * 110_000 + b".",
        b"\x80\x02" + b"]" * 210_000 + b".",
        b"\x80\x02" + b"K\x00" * 9 + b"".join(b"\x87q%c" % k for k in range(200)) + b".",
    ],
)
def test_pickles_that_would_crash_or_fill_the_memory_are_refused(code, tmp_path, rng):
    write_cifar(tmp_path, rng, "python")
    (tmp_path / "data_batch_1").write_bytes(code)
    message, peak = peak_of(cifar10, tmp_path)
    assert "data_batch_1: found " in message
    assert len(message) < 400
    assert peak < 200 << 20


@pytest.mark.parametrize(
    "shape",
    [(3_000_000, 28, 28), (2**32 - 1, 2**32 - 1, 0), (0, 2**31, 2**31), (70_000, 28, 28)],
)
def test_headers_with_impossible_sizes_take_no_memory(shape, tmp_path):
    path = tmp_path / "images.gz"
    header = struct.pack(">4I", 2051, *shape)
    path.write_bytes(gzip.compress(header + bytes(1 << 12)))
    message, peak = peak_of(read_idx, path, 2051)
    assert f"images.gz: found the shape {shape}; expected at most" in message
    assert peak < 1 << 20
    plain = tmp_path / "plain"
    plain.write_bytes(header)
    os.truncate(plain, 16 + min(shape[0] * shape[1] * shape[2], 1 << 40))
    if shape[0] != 70_000:
        message, peak = peak_of(read_idx, plain, 2051)
        assert peak < 1 << 20


def test_a_gzip_bomb_is_not_inflated(tmp_path, rng):
    write_cifar(tmp_path, rng, "binary")
    (tmp_path / "test_batch.bin").unlink()
    (tmp_path / "test_batch.bin.gz").write_bytes(gzip.compress(bytes(200 << 20), 1))
    message, peak = peak_of(cifar10, tmp_path)
    assert "test_batch.bin.gz: found a larger file; expected at most 62,508,576 bytes" in message
    assert peak < 200 << 20


@pytest.mark.parametrize("kind", ["FIFO", "link to a device"])
def test_a_file_that_is_none_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "images"
    os.mkfifo(path) if kind == "FIFO" else path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="images is no regular file"):
        read_idx(path, 2051)


def test_data_may_be_linked_and_compressed_under_any_name(tmp_path, rng):
    """As download tools store them: a link to a file that is named after its content."""
    array = rng.integers(0, 256, (2, 28, 28), dtype=np.uint8)
    (tmp_path / "blob").write_bytes(gzip.compress(idx(array)))
    (tmp_path / "images").symlink_to(tmp_path / "blob")
    np.testing.assert_array_equal(read_idx(tmp_path / "images", 2051), array)


# --- the task -----------------------------------------------------------------------------------


def test_the_last_sixth_of_mnists_training_images_is_for_validation(tmp_path, rng):
    images, labels, test, _ = write_mnist(tmp_path, rng)
    task = Pixels(data="mnist", path=str(tmp_path))
    validation = task.held_out(Stream.VALIDATION, 0, 10)[0]
    assert validation.inputs.shape == (784, 2, 1)
    assert validation.inputs.dtype == np.float32
    np.testing.assert_array_equal(validation.targets[0], labels[-2:])
    scaled = images[-2:].reshape(2, 784).T.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(validation.inputs[..., 0], scaled)
    assert len(task.images(Stream.TRAIN).labels) == 10
    assert len(task.images(Stream.TEST).labels) == len(test)
    trained = np.concatenate([task.batch(0, step, 5).targets[0] for step in range(2)])
    np.testing.assert_array_equal(np.sort(trained), np.sort(labels[:-2]))


def test_cifar_can_be_permuted_and_limited(tmp_path, rng):
    write_cifar(tmp_path, rng, "binary")
    settings = {"data": "cifar10", "path": str(tmp_path)}
    plain, permuted = (
        Pixels(**settings, permute=permute, judged=1).held_out(Stream.TEST, 0, 10)[0]
        for permute in (False, True)
    )
    assert plain.inputs.shape == (1024, 1, 3)
    np.testing.assert_array_equal(permuted.inputs, plain.inputs[bit_reversal(1024)])
    assert Pixels(**settings).baselines().keys() == Pixels().baselines().keys()


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
@pytest.mark.parametrize("preset", ["quick", "paper", "table3", "table3-zoneout"])
def test_presets_depend_on_the_data(data, preset):
    config = Config.of("pixels", "UR", preset, data=data, path="anywhere")
    assert config.spec().input_size == {"mnist": 1, "cifar10": 3}[data]
    if preset == "quick":
        return
    epochs = {"mnist": 150 * 50_000, "cifar10": 100 * 45_000}[data]
    assert config.steps * config.batch_size == epochs
    units = {"paper": (512, 512)}.get(preset, (1024, 2048))
    assert config.hidden_size == units[data == "cifar10"]


def test_zoneout_depends_on_the_core():
    config = Config.of("pixels", "UR", "table3-zoneout", core="gru")
    assert (config.zoneout, config.dropout) == ((0.0, 0.1), 0.5)
    assert Config.of("pixels", "UR", "table3-zoneout").zoneout == (0.5, 0.05)
    assert Config.of("pixels", "UR", "table3").zoneout == (0.0, 0.0)


def test_data_are_known_by_the_digest_of_their_files(tmp_path, rng, monkeypatch):
    for folder, suffix in (("plain", ""), ("zipped", ".gz")):
        (tmp_path / folder).mkdir()
        write_mnist(tmp_path / folder, np.random.default_rng(0), suffix=suffix,
                    pack=gzip.compress if suffix else bytes)  # fmt: skip
    one, two = (Pixels(data="mnist", path=str(tmp_path / name)) for name in ("plain", "zipped"))
    assert one.content == two.content != ""
    assert one.title == "Images of plain, pixel by pixel"
    monkeypatch.setitem(image_files.KNOWN, one.content, "MNIST")
    assert one.title == two.title == "MNIST, pixel by pixel"
    assert Pixels(permute=True).title == "Digits, pixel by pixel, bit-reversed"
    unread = Pixels(data="mnist", path=str(tmp_path / "none"))
    assert (unread.content, unread.known) == ("", None)


def test_a_run_is_not_continued_with_other_files(tmp_path, rng):
    write_mnist(tmp_path, rng)
    task = Pixels(data="mnist", path=str(tmp_path), content="0" * 32)
    assert task.content == "0" * 32  # as a run recorded it
    with pytest.raises(DataError, match=f"files of the digest .* expected {'0' * 32}"):
        task.images(Stream.TEST)


# MD5 of data_batch_1.bin to data_batch_5.bin and test_batch.bin (prabhuomkar/pytorch-cpp,
# cmake/fetch_cifar10.cmake; the same in rai-project/dldataset, vision/cifar10.go)
CIFAR_BINARY = ["5dd7e06a14cb22eb9f671a540d1b7c25", "5ea93a67294ea407fff1d09f752e9692",
                "942cd6a4bcdd0dd3c604fbe906cb4421", "ae636b3ba5c66a11e91e8cb52e771fcb",
                "53f37980c15c3d472c316c40844f3f0d", "803d5f7f4d78ea53de84dbe85f74fb6d"]  # fmt: skip


def test_files_with_the_published_digests_of_cifar_10_in_binary_are_titled_so(
    tmp_path, rng, monkeypatch
):
    """Each batch is given the digest that its original has; nothing of CIFAR-10 is here."""
    write_cifar(tmp_path, rng, "binary")
    published = {
        (tmp_path / f"{name}.bin").read_bytes(): digest
        for name, digest in zip(CIFAR, CIFAR_BINARY, strict=True)
    }
    plain = image_files._md5

    def md5(parts):
        content = b"".join(parts)
        return published.get(content) or plain([content])

    monkeypatch.setattr(image_files, "_md5", md5)
    task = Pixels(data="cifar10", path=str(tmp_path))
    assert (task.known, task.title) == ("CIFAR-10", "CIFAR-10, pixel by pixel")


def test_fashion_mnist_is_titled_so():
    content = {name: key for key, name in image_files.KNOWN.items()}["Fashion-MNIST"]
    config = Config.of("pixels", data="mnist", path="mnist", content=content)
    assert config.task.title == "Fashion-MNIST, pixel by pixel"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "mnist"}, "data='mnist' needs a path, .* got path=None"),
        ({"path": "x"}, "data='digits' needs no path, got path='x'"),
        ({"data": "fashion"}, "data='fashion'"),
    ],
)
def test_path_is_given_exactly_with_external_data(settings, message):
    with pytest.raises(ValueError, match=message):
        Config.of("pixels", "UR", **settings)


def test_a_missing_folder_is_refused_before_a_run_folder_is_made(tmp_path):
    from click.testing import CliRunner

    from gatecore.tasks.cli.commands import main

    words = ["train", "pixels", "--set", "data=mnist", "--set", f"path={tmp_path / 'none'}",
             "--out", str(tmp_path / "run")]  # fmt: skip
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "none: found no such folder; expected" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()
