"""torch.jit.script of the layers and cells, compared with the eager ones."""

import copy
import io

import pytest
import torch
from torch import nn

from gatecore import mechanism
from gatecore.backends.torch import (
    DNC,
    GRU,
    LSTM,
    GateUnit,
    GRUCell,
    LSTMCell,
    Minimal,
    MinimalCell,
)

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*:DeprecationWarning")  # of itself
SETTINGS = {
    "plain": {},
    "stacked": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "without bias": {"bias": False},
    "one bias": {"two_biases": False},
    "float64": {"dtype": torch.float64},
}
MECHANISMS = pytest.mark.parametrize(
    "gates", ["standard", "UR", "OM", mechanism("UR", tied=False)], ids=str
)


class Model(nn.Module):
    """A layer inside a module, as scripts have them."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x: torch.Tensor):
        return self.rnn(x)


class States(nn.Module):
    """An LSTM that is given its initial states."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor):
        return self.rnn(x, (h, c))


@MECHANISMS
@pytest.mark.parametrize("kind", [LSTM, GRU, Minimal])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_scripted_layer_equals_the_eager_one(kind, gates, settings):
    torch.manual_seed(0)
    eager = kind(3, 8, mechanism=gates, **settings)
    x = torch.randn(4, 5, 3, dtype=settings.get("dtype"), requires_grad=True)
    expected = eager(x)
    names, leaves = zip(*eager.named_parameters(), strict=True)
    gradients = torch.autograd.grad(expected[0].sin().sum(), [x, *leaves])
    scripted = torch.jit.script(Model(eager))
    for _ in range(3):  # torch optimizes after the first runs
        got = scripted(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    scripted_gradients = torch.autograd.grad(got[0].sin().sum(), [x, *leaves])
    torch.testing.assert_close(scripted_gradients, gradients, rtol=1e-4, atol=1e-6)
    assert [name for name, _ in scripted.named_parameters()] == [f"rnn.{name}" for name in names]


@MECHANISMS
@pytest.mark.parametrize("kind", [LSTMCell, GRUCell, MinimalCell])
def test_a_scripted_cell_equals_the_eager_one(kind, gates):
    torch.manual_seed(0)
    eager, x = kind(3, 8, mechanism=gates), torch.randn(5, 3)
    scripted = torch.jit.script(Model(copy.deepcopy(eager)))
    torch.testing.assert_close(scripted(x), eager(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scripted(x[0]), eager(x[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gates", ["standard", "UR"])
def test_a_scripted_layer_takes_states_and_is_saved(gates):
    eager, x = LSTM(3, 8, mechanism=gates), torch.randn(6, 2, 3)
    states = torch.randn(1, 2, 8), torch.randn(1, 2, 8)
    expected = eager(x, states)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(States(eager)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    torch.testing.assert_close(loaded(x, *states), expected, rtol=1e-5, atol=1e-6)
    assert set(loaded.state_dict()) == {f"rnn.{name}" for name in eager.state_dict()}


def test_a_model_is_used_on_after_it_was_scripted():
    model, other, x = Model(LSTM(3, 8)), Model(LSTM(3, 8)), torch.randn(4, 2, 3)
    torch.jit.script(model)
    model.load_state_dict(other.state_dict(), assign=True)
    torch.testing.assert_close(model(x), other(x))
    zeros = {name: 0 * value for name, value in model.named_parameters()}
    assert not torch.func.functional_call(model, zeros, (x,))[0].any()
    assert model.rnn(x, resets=torch.ones(4, 2, dtype=torch.bool))[0].shape == (4, 2, 8)
    assert model.rnn.mechanism == mechanism("UR")
    with pytest.raises(RuntimeError, match="records no mechanism"):
        model.load_state_dict(Model(LSTM(3, 8, mechanism="U")).state_dict(), strict=False)
    torch.testing.assert_close(torch.jit.script(model)(x), other(x))


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_script_is_cast(kind):
    model, x = Model(kind(3, 8)), torch.randn(4, 2, 3)
    expected, _ = model(x)
    scripted = torch.jit.script(model).double()
    torch.testing.assert_close(scripted(x.double())[0].float(), expected, rtol=1e-5, atol=1e-6)


def test_a_script_checks_its_input():
    scripted = torch.jit.script(Model(LSTM(3, 8)))
    with pytest.raises(torch.jit.Error, match="input must have 3 features, got 5"):
        scripted(torch.randn(4, 2, 5))
    with pytest.raises(torch.jit.Error, match="larger than 0"):
        scripted(torch.randn(0, 2, 3))


def test_a_core_that_was_refused_works_on():
    core, x = DNC(3, 8, slots=6, width=4), torch.randn(4, 2, 3)
    expected = core(x)[0]
    with pytest.raises(RuntimeError, match="DNC cannot be compiled"):
        torch.jit.script(core)
    torch.testing.assert_close(core(x)[0], expected)


def _hooked():
    layer = LSTM(3, 8)
    layer.register_forward_hook(lambda *_: None)
    return layer


class Doubled(LSTM):
    def forward(self, x):
        return 2 * super().forward(x)[0]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: LSTM(3, 8, zoneout=0.1), "zoneout"),
        (lambda: LSTM(3, 8, return_cells=True), "return_cells=True"),
        (lambda: LSTM(3, 8, proj_size=2), "a projection"),
        (lambda: LSTM(3, 8, dtype=torch.bfloat16), "half precision"),
        (lambda: nn.utils.parametrizations.weight_norm(LSTM(3, 8), "weight_hh_l0"), "weights"),
        (_hooked, "hooks"),
        (lambda: Doubled(3, 8), "a forward of its own"),
        (lambda: GateUnit(8), "GateUnit cannot"),
    ],
)
def test_a_script_that_would_differ_is_refused(make, reason):
    with pytest.raises(RuntimeError, match=f"{reason}.*use torch.export"):
        torch.jit.script(nn.Sequential(make()))
