"""torch's CUDA path on a stand-in for a GPU: streams, threads, devices, captures, the operator."""

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gatecore.backends.cuda import recording
from gatecore.backends.torch.nn.layers import LSTM
from gatecore.backends.torch.sequence import cuda_kernels, custom_op, dispatch
from tests.cuda.torch_calls import agree, called, case, engine_of, results, warm


def test_graphs_belong_to_a_stream_a_shape_and_a_precision(gpu):
    engine = warm(gpu)
    before, float32 = gpu.recordings, torch.float32
    for gpu.stream, gpu.tf32, time in ((5, False, 4), (6, False, 4), (6, True, 4), (6, True, 3)):
        for _ in range(3):
            agree(case(time=time, dtype=float32), 1e-5)
    assert gpu.recordings - before == 2 * 4
    plans = list(engine._plans.values())
    assert len({plan._table.value for plan in plans}) == len(plans)
    assert set(engine._workspaces) == {5, 6}


def test_two_threads_share_a_stream(gpu):
    warm(gpu)
    calls, errors = [case(time=9, dtype=torch.float64) for _ in range(2)], []
    wanted = [results(call, "plain") for call in calls]

    def work(k):
        try:
            for _ in range(12):
                for got, exact in zip(results(calls[k]), wanted[k], strict=True):
                    torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-12)
        except Exception as error:  # noqa: BLE001 - of any kind, for the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_second_gpu_has_an_engine_of_its_own_and_is_current_while_it_works(gpu, monkeypatch):
    agree(case())
    monkeypatch.setattr(cuda_kernels, "_index", lambda x: 1)
    gpu.index = 0
    for _ in range(3):
        agree(case())
    assert gpu.index == 0
    assert engine_of(0) is not engine_of(1)
    assert engine_of(1).device.index == 1


def test_within_a_capture_it_runs_on_fresh_memory_once_it_has_been_called(gpu):
    engine, calls = warm(gpu), [case(time=8) for _ in range(3)]
    kept, recordings, gpu.capturing = list(engine._plans), gpu.recordings, True
    for call in calls:
        agree(call)
    assert list(engine._plans) == kept
    assert gpu.recordings == recordings


def test_within_a_capture_nothing_is_compiled_or_tested(gpu):
    gpu.capturing = True
    with pytest.raises(ValueError, match="call the layer once before"):
        called(case(), impl="fused")
    assert called(case()).impl == "plain"
    assert gpu.compiled == []
    gpu.capturing = False
    agree(case())
    gpu.capturing = True
    agree(case())
    with pytest.raises(ValueError, match="call the layer once before"):
        called(case("gru"), impl="fused")


@pytest.mark.parametrize("mode", ["compile", "profiler"])
def test_the_registered_operator_runs_it_without_a_graph(gpu, mode):
    engine = warm(gpu)
    kept, recordings, launched = list(engine._plans), gpu.recordings, len(gpu.launched)
    layer = LSTM(3, 6, impl="fused", dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    wanted = torch.autograd.grad(layer(x)[0].sum(), [x, *layer.parameters()])
    kept = list(engine._plans)
    run_ = torch.compile(layer, fullgraph=True, backend="aot_eager") if mode == "compile" else layer
    context = torch.profiler.profile() if mode == "profiler" else torch.enable_grad()
    for _ in range(3):
        with context if mode == "compile" else torch.profiler.profile():
            got = torch.autograd.grad(run_(x)[0].sum(), [x, *layer.parameters()])
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    assert list(engine._plans) == kept
    assert gpu.recordings == recordings
    assert len(gpu.launched) - launched == 2 * 5 * 4


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_tests_the_device_while_it_traces(gpu, dynamic):
    layer = LSTM(3, 6, impl="auto", dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for time in (4, 7):
        x = torch.randn(time, 2, 3, dtype=torch.float64)
        got = torch.autograd.grad(compiled(x)[0].sum(), list(layer.parameters()))
        wanted = torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters()))
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    assert layer.last_impl == "fused"
    assert sum(len(names) for names in gpu.compiled) == 2 * 3  # the test's kernels, and the layer's


def test_the_operator_of_a_saved_graph_makes_its_engine(gpu):
    call = case(time=3).complete()
    values = custom_op.pack(call, "fused") | {"save_for_backward": False}
    with torch.no_grad():
        output = torch.ops.gatecore.sequence(*custom_op.in_order(custom_op.FORWARD, values))[0]
        torch.testing.assert_close(output, called(call, "plain").outputs[0], rtol=1e-12, atol=1e-12)
        gpu.fails.add("module")
        call = case("gru").complete()
        values = custom_op.pack(call, "fused") | {"save_for_backward": False}
        with pytest.raises(RuntimeError, match="the CUDA kernels cannot run: cuModuleLoadData"):
            torch.ops.gatecore.sequence(*custom_op.in_order(custom_op.FORWARD, values))


def test_where_recording_fails_sequences_are_launched_step_by_step(gpu, caplog):
    gpu.fails.add("record")
    for _ in range(4):
        agree(case())
    assert (gpu.recordings, gpu.replays) == (0, 0)
    assert ["not permitted when stream is capturing" in r.message for r in caplog.records] == [True]


class Operations(TorchDispatchMode):
    """The names of torch's operations in its context, each of which is a launch on a GPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function.overloadpacket))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", ["plain", "resets", "masks"])
@pytest.mark.parametrize(("core", "products"), [("lstm", 1), ("gru", 2), ("minimal", 1)])
def test_a_replayed_call_is_two_copies_products_and_a_graph(gpu, core, products, variant):
    warm(gpu)
    call, kernels = case(core, variant=variant), dispatch.named("fused")
    for _ in range(2):
        results(call)
    cotangents = [torch.ones(5, 2, 6, dtype=torch.float64)], [None] * len(call.states)
    for passes in ("forward", "backward"):
        replays, copies, computed = gpu.replays, gpu.copies, len(gpu.blas.computed)
        with torch.no_grad(), Operations() as operations:
            if passes == "forward":
                saved = kernels.forward(call, True)[call.num_results :]
            else:
                kernels.backward(call, saved, *cotangents, True)
        assert set(operations.names) == {"aten.new_empty"}
        assert gpu.replays == replays + 1
        assert gpu.copies == copies + 2
        over_time = 1 if passes == "forward" else products + 1
        assert len(gpu.blas.computed) == computed + over_time  # not those that the graph has


def test_the_oldest_shapes_and_on_request_all_are_freed(gpu, monkeypatch):
    monkeypatch.setattr(recording, "_MAX_SHAPES", 3)
    for time in range(1, 6):
        for _ in range(3):
            agree(case(time=time))
    engine = engine_of(0)
    assert [key[3] for key in engine._plans] == [3, 4, 5]
    dispatch.release()
    assert not engine._plans
    assert not engine._workspaces
    agree(case(time=5))
