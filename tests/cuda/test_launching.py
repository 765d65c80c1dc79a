"""How the GPU's launcher compiles, launches and records, told by a stand-in for CuPy."""

import numpy as np
import pytest

import gatecore
from gatecore.backends.common.layout import layout_of
from gatecore.backends.cuda import interop, launch, source, support
from gatecore.backends.cuda.steps import FusedLayer, KernelEngine, record_of
from gatecore.backends.numpy import bptt
from tests.cuda.host import HostLauncher
from tests.cuda.standin import Pointed, StandIn, Stream
from tests.sequences import gradient, random_like
from tests.support import leaves, norm_error


@pytest.fixture
def cupy(host_library):
    """A stand-in for CuPy whose kernels are the host's build."""
    return StandIn(host_library)


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
    for time in range(10, 10 + launch._MAX_SHAPES):
        launcher.buffers(layout, (time, 2), np.dtype("float32"))
    assert len(launcher._buffers) == launch._MAX_SHAPES
    assert launcher.buffers(layout, (4, 2), np.dtype("float32")) is not first
    launcher.release()
    assert not launcher._buffers


def test_an_error_while_recording_ends_the_recording(launcher, cupy):
    buffers = launcher.buffers(
        layout_of(gatecore.cells.LSTM(3, 6, "UR")), (4, 2), np.dtype("float32")
    )

    def fails():
        raise FloatingPointError

    launcher.replay(buffers, "forward", lambda: None)
    with pytest.raises(FloatingPointError):
        launcher.replay(buffers, "forward", fails)
    assert cupy.captured is None


def test_what_is_not_in_one_piece_is_refused(launcher):
    layout = layout_of(gatecore.cells.LSTM(3, 6, "UR"))
    with pytest.raises(ValueError, match="resets must be contiguous"):
        record_of(layout, (4, 2), launcher.pointer, resets=np.zeros((4, 2)).T.view(Pointed))


def test_another_frameworks_stream_and_memory_are_used(launcher, cupy, monkeypatch, rng):
    made = []

    class Device:
        compute_capability = "90"

        def __init__(self, number):
            assert number == 0

        __enter__ = __exit__ = lambda self, *_: None

    def external(pointer, number):
        made.append((pointer, number))
        return Stream(cupy, pointer)

    cupy.cuda.Device, cupy.cuda.ExternalStream = Device, external
    monkeypatch.setattr(launch, "launcher", lambda: launcher)
    launch.engine.cache_clear()
    memory = np.zeros(3)
    with interop.on_stream(1234, 0) as engine:
        assert engine.launcher is launcher
        assert cupy.cuda.get_current_stream().ptr == 1234
        view = interop.view(engine, memory)
        view[0] = 1
    assert memory[0] == 1
    assert made == [(1234, 0)]
    assert interop.unsupported(gatecore.cells.LSTM(3, 6), (5, 2), "float32") is None
    assert "float16" in interop.unsupported(gatecore.cells.LSTM(3, 6), (5, 2), "float16")
    launch.engine.cache_clear()


def test_an_old_gpu_falls_back_and_says_why():
    engine = KernelEngine(HostLauncher(None), support.device_unsupported(75))
    call = bptt.Call(engine, gatecore.cells.LSTM(3, 6, "UR"), {}, (5, 2), "float32")
    assert "compute_capability 75" in FusedLayer.unsupported(call)


@pytest.mark.parametrize("core", support.CORES)
@pytest.mark.parametrize("mechanism", ["UR", "OM"])
def test_the_memory_that_a_backward_pass_needs_is_known_beforehand(host_library, core, mechanism):
    cell, shapes = gatecore.cells.CELLS[core](3, 6, mechanism), []

    def acquire(width, steps=True, extra=0):
        shapes.append((4 + extra, 2, width))
        return np.empty(shapes[-1])

    engine = KernelEngine(HostLauncher(host_library))
    call = bptt.Call(engine, cell, cell.init(0), (4, 2), np.dtype("float64"))
    FusedLayer(call, acquire)
    assert interop.saved_shapes(cell, (4, 2)) == shapes
