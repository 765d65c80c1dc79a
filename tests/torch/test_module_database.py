"""torch's own table of module tests, run on layers and cells in the place of its own.

``torch.testing._internal.common_modules`` states for every module of torch with which arguments it
is made and called, what an unbatched call must equal, and which calls are refused in which words.
torch's ``test_modules.py`` runs them; the checks here are those of that file which concern a
recurrent module on a CPU. Of all entries, only cells of size 0 differ, see the last test.
"""

import copy
import pickle
import warnings

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("expecttest", reason="expecttest, which torch's tests import, is not installed")
from torch import nn  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten  # noqa: E402

from gatecore.backends import torch as ours  # noqa: E402

KINDS = ["LSTM", "GRU", "LSTMCell", "GRUCell"]
EVERY = pytest.mark.parametrize(
    ("kind", "mechanism"), [(kind, mechanism) for kind in KINDS for mechanism in ("standard", "UR")]
)


@pytest.fixture(scope="module")
def database():
    """torch's entries by the name of the module."""
    flag = "__allow_nonbracketed_mutation_flag"
    before = getattr(torch.backends, flag)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the table of all modules imports
        from torch.testing._internal.common_modules import module_db
    setattr(torch.backends, flag, before)  # importing torch's test utilities changes it
    return {info.name.removeprefix("nn."): info for info in module_db}


class Sample:
    """A module made as torch's table says, and the arguments of a call."""

    def __init__(self, kind, mechanism, entry, dtype=torch.float64):
        self.entry, self.constructor = entry, entry.constructor_input
        self.keywords = {"dtype": dtype, "mechanism": mechanism, **self.constructor.kwargs}
        self.module = getattr(ours, kind)(*self.constructor.args, **self.keywords)
        self.args = entry.forward_input.args if entry.forward_input else ()

    def function(self):
        """The call as a function of its floating point tensors and the parameters, and those."""
        flat, spec = tree_flatten(self.args)
        places = [
            k for k, leaf in enumerate(flat) if torch.is_tensor(leaf) and leaf.is_floating_point()
        ]
        names = [name for name, _ in self.module.named_parameters()]

        def function(*tensors):
            filled = list(flat)
            for place, tensor in zip(places, tensors, strict=False):
                filled[place] = tensor
            parameters = dict(zip(names, tensors[len(places) :], strict=True))
            call = tree_unflatten(filled, spec)
            result = torch.func.functional_call(self.module, parameters, call)
            return tuple(
                t for t in tree_flatten(result)[0] if torch.is_tensor(t) and t.requires_grad
            )

        tensors = [flat[place] for place in places] + list(self.module.parameters())
        return function, [t.detach().clone().requires_grad_() for t in tensors]


def samples(database, kind, mechanism, dtype=torch.float64):
    torch.manual_seed(2)
    packed = {"with_packed_sequence": True} if kind == "GRU" else {}
    info = database[kind]
    return [
        Sample(kind, mechanism, entry, dtype)
        for entry in info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=True, training=True, **packed
        )
    ]


def tensors(result):
    return [t for t in tree_flatten(result)[0] if torch.is_tensor(t)]


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reference_of_an_unbatched_call(database, kind, mechanism, dtype):
    for sample in samples(database, kind, mechanism, dtype):
        if not isinstance(sample.args[0], nn.utils.rnn.PackedSequence):
            reference = sample.entry.reference_fn(sample.module, *sample.args)
            result = sample.module(*sample.args)
            for pair in zip(tensors(result), tensors(reference), strict=True):
                torch.testing.assert_close(*pair)


@EVERY
def test_copies_and_noncontiguous_tensors_give_the_same(database, kind, mechanism):
    for sample in samples(database, kind, mechanism):
        expected = tensors(sample.module(*sample.args))
        copies = copy.deepcopy(sample.module), pickle.loads(pickle.dumps(sample.module))  # noqa: S301
        apart = copy.deepcopy(sample.module)
        for parameter in apart.parameters():
            parameter.data = strided(parameter.data)
        results = [module(*sample.args) for module in copies]
        results.append(apart(*tree_map(strided, sample.args)))
        for result in results:
            for pair in zip(tensors(result), expected, strict=True):
                torch.testing.assert_close(*pair)


def strided(leaf):
    """The same values as every second of a tensor twice as long; lengths of a pack as they are."""
    if not torch.is_tensor(leaf) or not leaf.is_floating_point():
        return leaf
    return torch.stack([leaf, leaf], -1)[..., 0]


@EVERY
def test_settings_and_transfers(database, kind, mechanism):
    for sample in samples(database, kind, mechanism):
        assert mechanism in repr(sample.module) or mechanism == "standard"
        sample.keywords["device"] = "meta"
        meta = getattr(ours, kind)(*sample.constructor.args, **sample.keywords)
        assert {(p.device.type, p.dtype) for p in meta.parameters()} == {("meta", torch.float64)}
        meta.to_empty(device="cpu").load_state_dict(sample.module.state_dict())
        pairs = zip(tensors(meta(*sample.args)), tensors(sample.module(*sample.args)), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
        assert {p.dtype for p in meta.float().parameters()} == {torch.float32}


@EVERY
def test_gradients_one_by_one_and_in_batches(database, kind, mechanism):
    for sample in samples(database, kind, mechanism):
        assert gradcheck(*sample.function(), check_batched_grad=True, fast_mode=True)


@EVERY
def test_second_derivatives(database, kind, mechanism):
    for sample in samples(database, kind, mechanism)[::7]:  # all take a minute
        assert gradgradcheck(*sample.function(), check_batched_grad=True, fast_mode=True)


@EVERY
def test_what_torch_refuses_is_refused_in_its_words(database, kind, mechanism):
    info = database[kind]
    entries = info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=False, training=True
    )
    assert len(entries) >= 4

    def call(entry):
        sample = Sample(kind, mechanism, entry)
        return sample.module(*sample.args)

    for entry in entries:
        with pytest.raises(entry.error_type, match=entry.error_regex):
            call(entry.module_error_input)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
def test_exception_cells_of_size_0_are_refused(kind, sizes):
    """torch's cells take them, torch's layers and every other cell here do not."""
    assert getattr(nn, kind)(*sizes)(torch.zeros(2, sizes[0])) is not None
    with pytest.raises(ValueError, match="_size must be at least 1, got 0"):
        getattr(ours, kind)(*sizes)
