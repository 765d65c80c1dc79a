"""torch's own tests of its recurrent modules, their inputs and error inputs, with our classes."""

import copy
import functools
import pickle
import warnings

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("expecttest", reason="expecttest, which torch's own tests need, is missing")

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402

from gatecore.backends.torch import GRU, LSTM, GRUCell, LSTMCell  # noqa: E402

with warnings.catch_warnings():  # torch's test support is written for torch's own runs
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_modules as own
    from torch.testing._internal.common_modules import ModuleErrorEnum

SAMPLES = {
    LSTM: own.module_inputs_torch_nn_LSTM,
    GRU: functools.partial(own.module_inputs_torch_nn_RNN_GRU, is_rnn=False),
    LSTMCell: own.module_inputs_torch_nn_LSTMCell,
    GRUCell: own.module_inputs_torch_nn_RNN_GRU_Cell,
}
ERRORS = {
    LSTM: own.module_error_inputs_torch_nn_RNN_GRU,
    GRU: own.module_error_inputs_torch_nn_RNN_GRU,
    LSTMCell: own.module_error_inputs_torch_nn_LSTMCell,
    GRUCell: own.module_error_inputs_torch_nn_RNN_GRU_Cell,
}
KINDS = pytest.mark.parametrize("kind", SAMPLES, ids=lambda k: k.__name__)
MECHANISMS = pytest.mark.parametrize("mechanism", ["standard", "UR"])


def samples(kind, dtype=torch.float64, requires_grad=False):
    return SAMPLES[kind](None, "cpu", dtype, requires_grad, True)


def built(kind, sample, mechanism="standard", **keywords):
    given = sample.constructor_input
    keywords = {"dtype": torch.float64, "mechanism": mechanism, **given.kwargs, **keywords}
    return kind(*given.args, **keywords)


def called(module, sample):
    given = sample.forward_input
    return module(*given.args, **given.kwargs)


@KINDS
@MECHANISMS
def test_forward_equals_torchs_reference(kind, mechanism):
    for sample in samples(kind):
        module = built(kind, sample, mechanism)
        result = called(module, sample)
        if sample.reference_fn is not None:
            given = copy.deepcopy(sample.forward_input)
            expected = sample.reference_fn(module, *given.args, **given.kwargs)
            torch.testing.assert_close(result, expected)


@KINDS
def test_factory_keywords(kind):
    sample = samples(kind)[0]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        module = built(kind, sample, dtype=dtype, device="cpu")
        assert {p.dtype for p in module.parameters()} == {dtype}
        assert all(p.is_meta for p in built(kind, sample, device="meta").parameters())


@KINDS
@MECHANISMS
def test_pickled_and_moved(kind, mechanism):
    for sample in samples(kind):
        module = built(kind, sample, mechanism)
        result = called(module, sample)
        twin = pickle.loads(pickle.dumps(module))  # noqa: S301  our own bytes
        torch.testing.assert_close(called(twin, sample), result)
        moved = copy.deepcopy(module).float().double()
        torch.testing.assert_close(called(moved, sample), result, rtol=1e-5, atol=1e-6)
        assert repr(module).startswith(kind.__name__)


@KINDS
def test_inputs_that_are_not_contiguous(kind):
    for sample in samples(kind):
        module = built(kind, sample)
        expected, given = called(module, sample), sample.forward_input
        scattered = pytree.tree_map_only(torch.Tensor, spread, (given.args, given.kwargs))
        torch.testing.assert_close(module(*scattered[0], **scattered[1]), expected)


def spread(tensor):
    """The same values in memory with gaps."""
    return torch.repeat_interleave(tensor, 2, dim=-1)[..., ::2]


@KINDS
@MECHANISMS
@pytest.mark.parametrize("order", [1, 2])
def test_gradients(kind, mechanism, order):
    """torch checks every sample; here every third of the second derivatives, for time."""
    chosen = samples(kind, requires_grad=True)
    for sample in chosen if order == 1 else chosen[::3]:
        module = built(kind, sample, mechanism, two_biases=True)
        given = sample.forward_input
        flat, spec = pytree.tree_flatten((given.args, given.kwargs))
        places = [k for k, leaf in enumerate(flat) if isinstance(leaf, torch.Tensor)]

        def function(*leaves, module=module, flat=flat, spec=spec, places=places):
            filled = list(flat)
            for place, leaf in zip(places, leaves, strict=False):
                filled[place] = leaf
            args, kwargs = pytree.tree_unflatten(filled, spec)
            return tuple(pytree.tree_leaves(module(*args, **kwargs)))

        leaves = (*(flat[k] for k in places), *module.parameters())
        check = gradcheck if order == 1 else gradgradcheck
        assert check(function, leaves, fast_mode=True)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors_are_torchs(kind, dtype):
    for error in ERRORS[kind](None, "cpu", dtype, False, True):
        sample = error.module_error_input
        given = sample.constructor_input
        if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                kind(*given.args, **given.kwargs)
            continue
        module = kind(*given.args, **{"dtype": dtype, **given.kwargs})
        with pytest.raises(error.error_type, match=error.error_regex):
            called(module, sample)
