"""How the GPU's launcher compiles, launches and records, told by a stand-in for CuPy."""

import threading

import numpy as np
import pytest

import gatecore
from gatecore.backends.common.layout import layout_of
from gatecore.backends.cuda import cublas, interop, launch, recording, source, support
from gatecore.backends.cuda.steps import FusedLayer, KernelEngine, record_of
from gatecore.backends.numpy import bptt
from tests.cuda.host import HostLauncher
from tests.cuda.standin import Pointed, StandIn, Stream
from tests.sequences import gradient, random_like
from tests.support import leaves, norm_error


@pytest.fixture
def cupy(host_library, monkeypatch):
    """A stand-in for CuPy whose kernels are the host's build, and for the cuBLAS it loads."""
    cupy = StandIn(host_library)
    monkeypatch.setattr(cublas, "library", lambda: cupy.blas)
    return cupy


@pytest.fixture
def launcher(cupy):
    yield launch.CudaLauncher(cupy)
    launch._compiled.cache_clear()


def problem(rng, core="lstm", mechanism="UR", hidden=6, time=4, batch=2):
    """Parameters and inputs of a layer."""
    params = gatecore.cells.CELLS[core](3, hidden, mechanism).init(rng)
    params = {name: value.view(Pointed) for name, value in params.items()}
    return core, params, rng.standard_normal((time, batch, 3)).view(Pointed), None, mechanism


@pytest.mark.parametrize("core", support.CORES)
@pytest.mark.parametrize("mechanism", ["standard", "UR", "OM"])
def test_first_a_sequence_is_run_then_recorded_then_replayed(launcher, cupy, core, mechanism, rng):
    engine = KernelEngine(launcher)
    for k in range(4):
        case = problem(rng, core, mechanism)
        output, _, pullback = bptt.run(engine, *case, impl="fused")
        wanted, end, reference = getattr(gatecore.backends.load("numpy"), core)(
            *(case[1], case[2].view(np.ndarray)), None, mechanism
        )
        weights = random_like((wanted, end), rng)
        got, expected = gradient(pullback, weights), gradient(reference, weights)
        pairs = zip(leaves((output, got)), leaves((wanted, expected)), strict=True)
        assert all(norm_error(a, b) < 1e-12 for a, b in pairs)
        assert cupy.noted.count("graph") == 2 * k  # forward and backward, from the second call on
    names = [entry[1] for entry in cupy.noted if entry[0] == "compiled"]
    layout = layout_of(gatecore.cells.CELLS[core](3, 6, mechanism))
    assert names == [source.names(layout, "float64")]  # once


def test_each_shape_and_stream_has_buffers_and_the_oldest_are_freed(launcher, cupy, rng):
    layout = layout_of(gatecore.cells.LSTM(3, 6, "UR"))
    first = launcher.buffers(layout, (4, 2), np.dtype("float32"))
    assert launcher.buffers(layout, (4, 2), np.dtype("float32")) is first
    assert launcher.buffers(layout, (5, 2), np.dtype("float32")) is not first
    assert launcher.buffers(layout, (4, 2), np.dtype("float64")) is not first
    with Stream(cupy, 9):
        assert launcher.buffers(layout, (4, 2), np.dtype("float32")) is not first
    for time in range(10, 10 + recording._MAX_SHAPES):
        launcher.buffers(layout, (time, 2), np.dtype("float32"))
    assert len(launcher._buffers) == recording._MAX_SHAPES
    assert launcher.buffers(layout, (4, 2), np.dtype("float32")) is not first
    launcher.release()
    assert not launcher._buffers


def test_a_body_that_can_not_be_recorded_is_run_at_every_call(launcher, cupy, caplog):
    buffers = launcher.buffers(
        layout_of(gatecore.cells.LSTM(3, 6, "UR")), (4, 2), np.dtype("float32")
    )
    ran = []

    def refuses(product):
        if cupy.captured is not None:
            cupy.matmul(np.eye(2), np.eye(2))
        ran.append(product)

    for call in range(1, 4):
        for direction in ("forward", "backward"):
            launcher.replay(buffers, direction, refuses)
        assert ran == [cupy.matmul] * 2 * call
        assert cupy.captured is None
    assert "graph" not in cupy.noted
    (record,) = caplog.records
    assert "calling cuBLAS API during stream capture is currently unsupported" in record.message


def test_without_its_cublas_sequences_run_without_a_graph(launcher, cupy, monkeypatch, rng, caplog):
    def absent():
        raise OSError("none of libcublas.so.13 is loaded")

    monkeypatch.setattr(cublas, "library", absent)
    case = problem(rng)
    for _ in range(3):
        output, _, pullback = bptt.run(KernelEngine(launcher), *case, impl="fused")
        wanted, _, _ = gatecore.backends.load("numpy").lstm(
            case[1], case[2].view(np.ndarray), None, case[-1]
        )
        assert norm_error(output, wanted) < 1e-12
        pullback(np.ones_like(output))
    assert "graph" not in cupy.noted
    assert ["libcublas" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_that_of_matrices_and_of_transposes(cupy, dtype, transposed, rng):
    product = launch._Product(cupy).on_stream(0)
    a = rng.standard_normal((3, 5)).astype(dtype).view(Pointed)
    b = rng.standard_normal((7, 5) if transposed else (5, 7)).astype(dtype).view(Pointed)
    b = b.T if transposed else b
    out = cupy.empty((3, 7), dtype=dtype)
    product(a, b, out=out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-5)
    with pytest.raises(ValueError, match="must be the shape"):
        product(a, b, out=cupy.empty((7, 3), dtype=dtype))
    with pytest.raises(ValueError, match="rows or columns in one piece"):
        product(np.zeros((6, 10), dtype).view(Pointed)[::2, ::2], b, out=out)
    with pytest.raises(RuntimeError, match="status 7"):  # one row in place of all
        product(np.lib.stride_tricks.as_strided(a, a.shape, (0, a.itemsize)).view(Pointed), b, out)
    assert cupy.blas.computed == [{"float32": 68, "float64": 70}[dtype]]


@pytest.mark.parametrize(("left", "right"), [((1, 1), (1, 4)), ((3, 1), (1, 1)), ((1, 5), (5, 1))])
def test_the_stride_of_an_axis_of_one_entry_does_not_matter(cupy, left, right, rng):
    def odd(shape):
        values = rng.standard_normal(shape)
        strides = [8 * 7 if n == 1 else s for n, s in zip(shape, values.strides, strict=True)]
        return np.lib.stride_tricks.as_strided(values, shape, strides).view(Pointed)

    a, b, out = odd(left), odd(right), cupy.empty((left[0], right[1]))
    launch._Product(cupy).on_stream(0)(a, b, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-12)


def test_tf32_is_for_float32_alone_and_a_status_is_an_error(cupy, monkeypatch):
    monkeypatch.setenv("CUPY_TF32", "1")
    product = launch._Product(cupy).on_stream(0)
    for dtype in ("float32", "float64"):
        product(*(np.ones((2, 2), dtype).view(Pointed) for _ in range(3)))
    assert cupy.blas.computed == [77, 70]
    with Stream(cupy, 9), pytest.raises(RuntimeError, match=r"cublasGemmEx returned .* status 7"):
        product(*(np.ones((2, 2)).view(Pointed) for _ in range(3)))


def test_what_is_not_in_one_piece_is_refused(launcher):
    with pytest.raises(ValueError, match="resets must be contiguous"):
        record_of(launcher.pointer, 4, 0, resets=np.zeros((4, 2)).T.view(Pointed))


def test_another_frameworks_stream_and_memory_are_used(launcher, cupy, monkeypatch, rng):
    class Device:
        compute_capability = "90"

        def __init__(self, number):
            assert number == 0

        __enter__ = __exit__ = lambda self, *_: None

    cupy.cuda.Device = Device
    monkeypatch.setattr(launch, "launcher", lambda: launcher)
    launch.engine.cache_clear()
    memory = np.zeros(3)
    with interop.on_stream(1234, 0) as engine:
        assert engine.launcher is launcher
        assert cupy.cuda.get_current_stream().ptr == 1234
        view = interop.view(engine, memory)
        view[0] = 1
    assert memory[0] == 1
    assert interop.unsupported(gatecore.cells.LSTM(3, 6), (5, 2), "float32") is None
    assert "float16" in interop.unsupported(gatecore.cells.LSTM(3, 6), (5, 2), "float16")
    launch.engine.cache_clear()


def test_a_shapes_buffers_are_one_threads_until_the_results_are_copied(host_library, rng):
    launcher, free = HostLauncher(host_library), []

    def attempt():
        free.append(launcher.lock.acquire(blocking=False))
        if free[-1]:
            launcher.lock.release()

    def watch(function):
        def watched(*arguments, **options):
            other = threading.Thread(target=attempt)
            other.start()
            other.join()
            return function(*arguments, **options)

        return watched

    for name in ("buffers", "upload", "replay"):
        setattr(launcher, name, watch(getattr(launcher, name)))
    _, _, pullback = bptt.run(KernelEngine(launcher), *problem(rng), impl="fused")
    assert free == [False] * 3
    pullback(np.ones((4, 2, 6)))
    assert free == [False] * 6
    assert launcher.lock.acquire(blocking=False)


def test_an_old_gpu_falls_back_and_says_why():
    engine = KernelEngine(HostLauncher(None), lambda: support.device_unsupported(75))
    call = bptt.Call(engine, gatecore.cells.LSTM(3, 6, "UR"), {}, (5, 2), "float32")
    assert "compute_capability 75" in FusedLayer.unsupported(call)


@pytest.mark.parametrize("core", support.CORES)
@pytest.mark.parametrize("mechanism", ["UR", "OM"])
@pytest.mark.parametrize("save", [True, False])
def test_the_memory_that_a_layer_needs_is_known_beforehand(host_library, core, mechanism, save):
    cell, shapes = gatecore.cells.CELLS[core](3, 6, mechanism), []

    def acquire(width):
        shapes.append((4, 2, width))
        return np.empty(shapes[-1])

    engine, dtype = KernelEngine(HostLauncher(host_library)), np.dtype("float64")
    call = bptt.Call(engine, cell, cell.init(0), (4, 2), dtype, save_for_backward=save)
    FusedLayer(call, acquire)
    assert interop.saved_shapes(cell, (4, 2), save_for_backward=save) == shapes


@pytest.mark.parametrize("core", support.CORES)
def test_products_copy_no_array_of_all_steps_but_the_inputs(launcher, cupy, core, rng):
    case = problem(rng, core, hidden=32, time=9)
    output, _, pullback = bptt.run(KernelEngine(launcher), *case, impl="fused")
    pullback(np.ones_like(output))
    copied = [entry[1] for entry in cupy.noted if entry[0] == "copied"]
    assert copied == [9 * 2 * 4 * 8]  # of the operand, (x | 1): 4 columns of float64


@pytest.mark.parametrize(("core", "products"), [("lstm", 1), ("gru", 2), ("minimal", 1)])
def test_one_product_is_the_gradient_of_all_weights(
    launcher, cupy, core, products, rng, monkeypatch
):
    _, _, pullback = bptt.run(KernelEngine(launcher), *problem(rng, core, time=5), impl="fused")
    multiplied, own = [], cupy.matmul
    monkeypatch.setattr(cupy, "matmul", lambda a, b, out=None: (
        multiplied.append((a.shape, b.shape)), own(a, b, out=out))[1])  # fmt: skip
    pullback(np.ones((5, 2, 6)), wrt_x=False)
    over_time = [b for a, b in multiplied if a[1] == b[0] == 5 * 2]
    assert over_time == [(10, 12)] * products  # 3 inputs and 1; 6 units, padded to 8


def test_a_call_waits_for_one_number(launcher, rng):
    case = problem(rng)
    before = Pointed.waits
    output, _, pullback = bptt.run(KernelEngine(launcher), *case, impl="fused")
    assert Pointed.waits == before + 1  # whether all parameters are finite
    pullback(np.ones_like(output))
    assert Pointed.waits == before + 1
