"""The stand-in for CuPy refuses what CuPy refuses: else nothing here would notice."""

import numpy as np
import pytest

from tests.cuda.standin import Pointed, StandIn


@pytest.fixture
def cupy():
    return StandIn(library=None)


@pytest.fixture
def capturing(cupy):
    """A stream while it is captured."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        yield stream
        stream.end_capture()


@pytest.mark.parametrize(
    "wait",
    [
        lambda cupy, array: array.set(np.ones(2)),
        lambda cupy, array: array.get(),
        lambda cupy, array: cupy.asnumpy(array),
        lambda cupy, array: array[0:1].item(),
        lambda cupy, array: array.tolist(),
        lambda cupy, array: bool(cupy.isfinite(array).all()),
    ],
)
def test_copies_and_waits_are_refused_while_a_stream_is_captured(cupy, capturing, wait):
    with pytest.raises(RuntimeError, match="synchronous API calls are disallowed"):
        wait(cupy, cupy.ones(2))


def test_products_are_refused_while_a_stream_is_captured(cupy, capturing):
    with pytest.raises(NotImplementedError, match="cuBLAS API during stream capture"):
        cupy.matmul(cupy.ones((2, 2)), cupy.ones((2, 2)))


@pytest.mark.parametrize("values", [np.ones(1), np.ones((1, 2)), np.ones(2, np.float32)])
def test_set_takes_one_shape_and_dtype(cupy, values):
    with pytest.raises(ValueError, match="mismatch"):
        cupy.ones(2).set(values)


def test_set_takes_arrays_of_the_host(cupy):
    with pytest.raises(TypeError, match="only a NumPy array"):
        cupy.ones(2).set(cupy.ones(2))


def test_products_take_an_output_of_their_shape_and_note_what_is_copied(cupy):
    a, b = cupy.ones((4, 6)), cupy.ones((6, 3))
    with pytest.raises(ValueError, match="invalid size"):
        cupy.matmul(a, b, out=cupy.empty((1, 3)))
    cupy.matmul(a, b, out=cupy.empty((4, 3)))
    cupy.matmul(b.T, a.T)
    assert cupy.noted == []
    cupy.matmul(a[:, :2], b[:2], out=cupy.empty((4, 5))[:, :3])
    assert cupy.noted == [("copied", 64), ("copied", 96)]


def test_a_deprecated_stream_warns(cupy):
    with pytest.warns(DeprecationWarning, match="ExternalStream"):
        cupy.cuda.ExternalStream(7)


def test_waits_are_counted(cupy):
    before = Pointed.waits
    assert cupy.isfinite(cupy.ones(3)).all() & cupy.isfinite(cupy.ones(2)).all()
    assert Pointed.waits == before + 1
