"""torch's own tests of its recurrent modules, with its inputs and error inputs, on gatecore's.

All of them hold but one kind: cells of size 0, see the last test.
"""

import copy
import functools
import pickle
import warnings

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("expecttest", reason="expecttest, which torch's tests need, is missing")

from torch import nn  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.nn.utils.rnn import PackedSequence  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402

from gatecore.backends.torch import GRU, LSTM, GRUCell, LSTMCell  # noqa: E402

with warnings.catch_warnings():  # torch's test support warns outside of torch's runs
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_modules
    from torch.testing._internal.common_modules import ModuleErrorEnum

SAMPLES = {
    LSTM: common_modules.module_inputs_torch_nn_LSTM,
    GRU: functools.partial(
        common_modules.module_inputs_torch_nn_RNN_GRU, is_rnn=False, with_packed_sequence=True
    ),
    LSTMCell: common_modules.module_inputs_torch_nn_LSTMCell,
    GRUCell: common_modules.module_inputs_torch_nn_RNN_GRU_Cell,
}
ERRORS = {
    LSTM: common_modules.module_error_inputs_torch_nn_RNN_GRU,
    GRU: common_modules.module_error_inputs_torch_nn_RNN_GRU,
    LSTMCell: common_modules.module_error_inputs_torch_nn_LSTMCell,
    GRUCell: common_modules.module_error_inputs_torch_nn_RNN_GRU_Cell,
}
KINDS = pytest.mark.parametrize("kind", SAMPLES, ids=lambda k: k.__name__)
MECHANISMS = pytest.mark.parametrize("mechanism", ["standard", "UR"])


def samples(kind, dtype=torch.float64, requires_grad=False):
    return SAMPLES[kind](None, "cpu", dtype, requires_grad, True)


def construct(kind, sample, mechanism="standard", **keywords):
    arguments = sample.constructor_input
    keywords = {"dtype": torch.float64, "mechanism": mechanism, **arguments.kwargs, **keywords}
    return kind(*arguments.args, **keywords)


def call(module, sample):
    arguments = sample.forward_input
    return module(*arguments.args, **arguments.kwargs)


@KINDS
@MECHANISMS
def test_forward_equals_the_reference_of_torch(kind, mechanism):
    for sample in samples(kind):
        module = construct(kind, sample, mechanism)
        result = call(module, sample)
        if not isinstance(sample.forward_input.args[0], PackedSequence):
            arguments = copy.deepcopy(sample.forward_input)
            expected = sample.reference_fn(module, *arguments.args, **arguments.kwargs)
            torch.testing.assert_close(result, expected)


@KINDS
def test_factory_keywords(kind):
    sample = samples(kind)[0]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        module = construct(kind, sample, dtype=dtype, device="cpu")
        assert {p.dtype for p in module.parameters()} == {dtype}
        assert all(p.is_meta for p in construct(kind, sample, device="meta").parameters())


@KINDS
@MECHANISMS
def test_pickled_and_moved(kind, mechanism):
    for sample in samples(kind):
        module = construct(kind, sample, mechanism)
        result = call(module, sample)
        copied = pickle.loads(pickle.dumps(module))  # noqa: S301  bytes of this test
        torch.testing.assert_close(call(copied, sample), result)
        moved = copy.deepcopy(module).float().double()
        torch.testing.assert_close(call(moved, sample), result, rtol=1e-5, atol=1e-6)
        assert repr(module).startswith(kind.__name__)


@KINDS
def test_non_contiguous_inputs(kind):
    for sample in samples(kind):
        module = construct(kind, sample)
        expected, arguments = call(module, sample), sample.forward_input
        scattered = pytree.tree_map_only(torch.Tensor, spread, (arguments.args, arguments.kwargs))
        torch.testing.assert_close(module(*scattered[0], **scattered[1]), expected)


def spread(tensor):
    """The same values in memory with gaps."""
    return torch.repeat_interleave(tensor, 2, dim=-1)[..., ::2]


@KINDS
@MECHANISMS
@pytest.mark.parametrize("order", [1, 2])
def test_gradients(kind, mechanism, order):
    """Cotangents alone and in batches; of the second derivatives every seventh, for time."""
    chosen = samples(kind, requires_grad=True)
    for sample in chosen if order == 1 else chosen[::7]:
        module = construct(kind, sample, mechanism)
        arguments = sample.forward_input
        flat, spec = pytree.tree_flatten((arguments.args, arguments.kwargs))
        positions = [k for k, leaf in enumerate(flat) if getattr(leaf, "requires_grad", False)]

        def function(*leaves, module=module, flat=flat, spec=spec, positions=positions):
            filled = list(flat)
            for position, leaf in zip(positions, leaves, strict=False):
                filled[position] = leaf
            args, kwargs = pytree.tree_unflatten(filled, spec)
            results = pytree.tree_leaves(module(*args, **kwargs))
            return tuple(result for result in results if getattr(result, "requires_grad", False))

        leaves = (*(flat[k] for k in positions), *module.parameters())
        check = gradcheck if order == 1 else gradgradcheck
        assert check(function, leaves, fast_mode=True, check_batched_grad=True)


@KINDS
@MECHANISMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors_are_those_of_torch(kind, mechanism, dtype):
    for error in ERRORS[kind](None, "cpu", dtype, False, True):
        sample = error.module_error_input
        arguments = sample.constructor_input
        if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                kind(*arguments.args, mechanism=mechanism, **arguments.kwargs)
            continue
        keywords = {"dtype": dtype, "mechanism": mechanism, **arguments.kwargs}
        module = kind(*arguments.args, **keywords)
        with pytest.raises(error.error_type, match=error.error_regex):
            call(module, sample)


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell])
@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
def test_cells_of_size_0_are_refused(kind, sizes):
    """torch's cells take them; its layers do not, nor do the cells of any framework here."""
    assert getattr(nn, kind.__name__)(*sizes)(torch.zeros(2, sizes[0])) is not None
    with pytest.raises(ValueError, match="_size must be at least 1, got 0"):
        kind(*sizes)
