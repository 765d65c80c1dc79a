"""torch's CUDA path on a stand-in for a GPU: results, streams, threads, captures, refusals."""

import threading

import pytest
import torch

from gatecore import mechanism
from gatecore.backends.cuda import cublas, driver, nvrtc
from gatecore.backends.torch.nn.layers import GRU, LSTM, Minimal
from gatecore.backends.torch.sequence import (
    cuda_device,
    cuda_engine,
    cuda_kernels,
    custom_op,
    dispatch,
)
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.run import run
from gatecore.cells import CELLS
from tests.cuda.gpu import Gpu


@pytest.fixture
def gpu(host_library, monkeypatch):
    """CPU tensors pass for CUDA's, and fresh memory is NaN."""
    gpu = Gpu(host_library)
    for module, library in ((driver, gpu), (cublas, gpu.blas)):
        monkeypatch.setattr(module, "library", lambda library=library: library)
    monkeypatch.setattr(nvrtc, "library", lambda version=None: gpu)
    monkeypatch.setattr(nvrtc, "compile", gpu.compile)
    monkeypatch.setattr(nvrtc, "version", lambda library: (13, 5))
    monkeypatch.setattr(cuda_kernels.CudaKernels, "device", "cpu")
    monkeypatch.setattr(cuda_kernels, "ENGINES", cuda_kernels.Engines(gpu.device))
    on_gpu = (dispatch.named("fused"), dispatch.named("plain"))
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", on_gpu)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield gpu
    torch.use_deterministic_algorithms(before)


def case(core="lstm", name="UR", time=5, batch=2, dtype=torch.float64, variant="plain", hidden=6):
    """A call with gradients wanted, and random cotangents of its results."""
    gating = mechanism(name, downsize=2) if "M" in name else mechanism(name)
    cell, new = CELLS[core](3, hidden, gating), torch.randn
    x = new(time, batch, 3, dtype=dtype, requires_grad=True)
    params = {n: torch.tensor(p, dtype=dtype, requires_grad=True) for n, p in cell.init(0).items()}
    state = tuple(new(batch, hidden, dtype=dtype, requires_grad=True) for _ in cell.state_names)
    resets, zoneout = None, None
    if variant == "resets":
        resets = torch.rand(time, batch) < 0.4
        resets[0, 0] = True
    if variant == "masks":
        mask = (torch.rand(time, batch, hidden) < 0.5).to(dtype)
        zoneout = (mask, 1 - mask)[: len(state)]
    if variant == "probabilities":
        zoneout = (0.5, 0.05)[: len(state)]
    cells = variant == "cells" and core == "lstm"
    return Call(cell, x, params, state, resets, zoneout, cells)


def called(call, impl="auto"):
    """The result of a call."""
    cell, x, params, *rest = call
    return run(cell, params, x, *rest, impl=impl)


def results(call, impl="fused"):
    """Outputs, last states and the gradients of all sources."""
    got = called(call, impl=impl)
    assert got.impl == impl
    outputs = [*got.outputs, *got.states]
    weights = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view(o.shape) for o in outputs]
    sources = [s for s in call.sources(True) if s.requires_grad]
    return [*outputs, *torch.autograd.grad(outputs, sources, weights)]


def agree(call, tolerance=1e-12, **options):
    for got, wanted in zip(results(call, **options), results(call, "plain"), strict=True):
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("variant", ["plain", "resets", "masks", "probabilities", "cells"])
@pytest.mark.parametrize("name", ["standard", "UR", "O", "OM", "UM"])
@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
def test_launched_recorded_and_replayed_it_gives_what_stepping_gives(gpu, core, name, variant):
    torch.manual_seed(0)
    for _ in range(4):
        agree(case(core, name, variant=variant))
    assert gpu.recordings == 2 + 2  # forward and backward, of the self-test and of the case
    assert gpu.replays == 2 * 2 + 2 * 3


@pytest.mark.parametrize("kind", [LSTM, GRU, Minimal])
def test_a_layer_of_two_biases_without_a_state_and_in_bfloat16(gpu, kind):
    torch.manual_seed(0)
    layer = kind(3, 6, num_layers=2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    wanted = []
    for layer.impl in ("plain", "fused", "fused", "fused"):
        output, _ = layer(x)
        got = [output, *torch.autograd.grad(output.sum(), layer.parameters())]
        wanted = wanted or got
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    low, exact = layer.bfloat16(), kind(3, 6, num_layers=2, bidirectional=True, impl="plain")
    exact.load_state_dict(low.state_dict())
    torch.testing.assert_close(low(x.bfloat16())[0].float(), exact(x)[0], rtol=0.02, atol=0.02)


def test_without_a_gradient_nothing_is_saved_and_the_results_are_the_same(gpu):
    call = case(time=7)
    with torch.no_grad():
        (outputs, states, _), wanted = called(call, impl="fused"), called(call, impl="plain")
    torch.testing.assert_close(outputs, wanted.outputs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(states, wanted.states, rtol=1e-12, atol=1e-12)
    assert not outputs[0].requires_grad
    frozen = call._replace(x=call.x.detach(), states=tuple(s.detach() for s in call.states))
    agree(frozen)


def test_plans_made_in_inference_mode_serve_training(gpu):
    for _ in range(2):
        with torch.inference_mode():
            called(case(), impl="fused")
    agree(case())


def test_what_is_not_contiguous_negated_or_of_one_value_is_read_as_it_is(gpu):
    call = case("gru", variant="masks")
    x = torch.randn(3, 2, 5, dtype=torch.float64).permute(2, 1, 0).requires_grad_()
    params = {
        n: p.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_()
        for n, p in call.params.items()
    }
    resets = torch.zeros(2, dtype=torch.bool).expand(5, 2)
    zoneout = tuple(z[:1].expand(5, 2, 6) for z in call.zoneout)
    state = torch.randn(2, 6, dtype=torch.complex128).conj().imag
    assert state.is_neg()
    call = Call(call.cell, x, params, (state.requires_grad_(),), resets, zoneout)
    for _ in range(3):
        agree(call)
    output = called(call, impl="fused").outputs[0]
    got, wanted = (
        torch.autograd.grad(o, [x], torch.ones(5, dtype=torch.float64)[:, None, None].expand_as(o))
        for o in (output, called(call, impl="plain").outputs[0])
    )
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("time", "batch", "word"), [(5, 0, "batch 0"), (0, 2, "time 0")])
def test_an_empty_batch_or_sequence_is_not_for_the_kernels(gpu, time, batch, word):
    call = case(time=time or 1, batch=batch)
    call = call._replace(x=call.x[:time])
    with pytest.raises(ValueError, match=word):
        called(call, impl="fused")
    assert gpu.compiled == []


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


def test_products_have_the_precision_of_torchs_lstm_at_each_call(gpu):
    warm(gpu)
    for gpu.tf32, code in ((True, 77), (False, 68), (True, 77)):
        gpu.blas.computed.clear()
        results(case(dtype=torch.float32))
        assert set(gpu.blas.computed) == {code}
    gpu.blas.computed.clear()
    results(case(dtype=torch.float64))
    assert set(gpu.blas.computed) == {70}


def test_the_precision_of_torchs_lstm_is_read_from_its_switch():
    device = cuda_device.CudaDevice(0)
    for allowed in (True, False):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            assert device.tf32() == allowed


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


def test_memory_that_was_freed_is_refused(gpu):
    warm(gpu)
    for name in ("x", "weight_hh"):
        call = case()
        tensor = (call.x if name == "x" else call.params[name]).detach()
        tensor.untyped_storage().resize_(0)
        with torch.no_grad(), pytest.raises(ValueError, match=f"{name} of shape.*freed or resized"):
            called(call, "fused")


def test_gradients_of_gradients_are_those_of_stepping(gpu):
    warm(gpu)
    call = case(time=3)
    seconds = []
    for impl in ("fused", "plain"):
        output = called(call, impl=impl).outputs[0]
        (first,) = torch.autograd.grad(output.square().sum(), [call.x], create_graph=True)
        seconds.append(torch.autograd.grad(first.sum(), [call.x])[0])
    torch.testing.assert_close(*seconds, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("argument", "change", "word"),
    [
        ("state", lambda c: c._replace(states=(c.states[0][:1], c.states[1])), "state must be"),
        ("weight", lambda c: c._replace(params=c.params | {"weight_hh": c.params["weight_ih"]}),
         "weight_hh must be"),
        ("resets", lambda c: c._replace(resets=torch.ones(5, 2)), "resets must be torch.bool"),
        ("mask", lambda c: c._replace(zoneout=(torch.ones(2, 6), 0.5)), "zoneout mask must be"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_before_a_kernel_reads_them(
    gpu, argument, change, word
):
    warm(gpu)
    launched = len(gpu.launched)
    with pytest.raises(ValueError, match=word):
        called(change(case()), impl="fused")
    assert len(gpu.launched) == launched


@pytest.mark.parametrize(
    ("stage", "word"),
    [
        ("compiler", "NVRTC_ERROR_COMPILATION"),
        ("module", r"cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE \(200\)"),
        ("launch", r"cuLaunchKernel: CUDA_ERROR_INVALID_VALUE \(1\)"),
        ("numbers", "wrong numbers when launched: relative error"),
    ],
)
def test_a_device_that_fails_its_test_is_passed_over_and_the_reason_is_kept(gpu, stage, word):
    gpu.fails.add(stage)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"'fused' is not available: a test of them.*{word}"):
            called(case(), impl="fused")
        assert called(case()).impl == "plain"
    assert len(gpu.compiled) == 1
    gpu.fails.clear()
    assert called(case()).impl == "plain"  # for the rest of the process


def test_where_recording_fails_sequences_are_launched_step_by_step(gpu, caplog):
    gpu.fails.add("record")
    for _ in range(4):
        agree(case())
    assert (gpu.recordings, gpu.replays) == (0, 0)
    assert ["not permitted when stream is capturing" in r.message for r in caplog.records] == [True]


def test_a_compiler_newer_than_the_driver_is_not_used(gpu, monkeypatch):
    gpu.version = 12040
    monkeypatch.setattr(nvrtc, "library", lambda version: gpu if version == 13 else None)
    with pytest.raises(ValueError, match=r"NVRTC 13\.5 is newer than the driver.*CUDA 12\.4"):
        called(case(), impl="fused")
    assert gpu.compiled == []


@pytest.mark.parametrize(
    ("module", "error", "word"),
    [
        (driver, OSError("libcuda.so.1: cannot open shared object file"), "libcuda"),
        (cublas, OSError("none of libcublas.so.13 is loaded"), "libcublas"),
    ],
)
def test_without_a_library_the_reason_names_it(gpu, monkeypatch, module, error, word):
    def absent():
        raise error

    monkeypatch.setattr(module, "library", absent)
    with pytest.raises(ValueError, match=word):
        called(case(), impl="fused")


def test_without_a_compiler_the_reason_says_how_to_install_one(gpu, monkeypatch):
    monkeypatch.setattr(nvrtc, "library", lambda version: None)
    with pytest.raises(ValueError, match=r"NVRTC is missing.*pip install nvidia-cuda-nvrtc"):
        called(case(), impl="fused")


def test_the_oldest_shapes_and_on_request_all_are_freed(gpu, monkeypatch):
    monkeypatch.setattr(cuda_engine, "_MAX_PLANS", 3)
    for time in range(1, 6):
        for _ in range(3):
            agree(case(time=time))
    engine = engine_of(0)
    assert [key[3] for key in engine._plans] == [3, 4, 5]
    dispatch.release()
    assert not engine._plans
    assert not engine._workspaces
    agree(case(time=5))


def engine_of(index):
    return cuda_kernels.ENGINES._engines[index]


def warm(gpu):
    """The engine, after a call."""
    agree(case(time=2))
    agree(case(time=2, dtype=torch.float32), 1e-5)
    return engine_of(0)
