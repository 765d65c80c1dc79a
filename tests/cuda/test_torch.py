"""torch's CUDA path on a stand-in for a GPU: results and gradients are those of stepping."""

import pytest
import torch

from gatecore.backends.torch.nn.layers import GRU, LSTM, Minimal
from gatecore.backends.torch.sequence import cuda_device
from gatecore.backends.torch.sequence.call import Call
from tests.cuda.torch_calls import agree, called, case, results, warm


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


def test_gradients_of_gradients_are_those_of_stepping(gpu):
    warm(gpu)
    call = case(time=3)
    seconds = []
    for impl in ("fused", "plain"):
        output = called(call, impl=impl).outputs[0]
        (first,) = torch.autograd.grad(output.square().sum(), [call.x], create_graph=True)
        seconds.append(torch.autograd.grad(first.sum(), [call.x])[0])
    torch.testing.assert_close(*seconds, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", ["plain", "resets"])
@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
def test_the_initial_state_alone_may_want_a_gradient(gpu, core, variant):
    call = case(core, variant=variant)
    params = {name: value.detach() for name, value in call.params.items()}
    for _ in range(3):
        agree(call._replace(x=call.x.detach(), params=params))


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
def test_one_step_of_one_row_and_of_many_units(gpu, core):
    for sizes in ({"time": 1, "batch": 1}, {"time": 3, "batch": 1, "hidden": 130}):
        for _ in range(3):
            agree(case(core, **sizes))


def test_results_may_be_changed_before_the_backward_pass(gpu):
    layer = LSTM(3, 6, batch_first=True, dtype=torch.float64)
    x, gradients = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True), []
    for layer.impl in ("fused", "plain"):
        output, (hidden, cell) = layer(x)
        changed = [output.mul_(2), cell.add_(1)]
        hidden.zero_()
        gradients.append(torch.autograd.grad([value.sum() for value in changed], [x]))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_several_backward_passes_may_follow_in_any_order(gpu):
    calls = [case("gru") for _ in range(3)]
    fused, plain = ([called(c, impl=impl).outputs[0].sum() for c in calls]
                    for impl in ("fused", "plain"))  # fmt: skip
    for k in (1, 0, 2, 1):
        sources = [calls[k].x, *calls[k].params.values(), *calls[k].states]
        pair = (torch.autograd.grad(o[k], sources, retain_graph=True) for o in (fused, plain))
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)
