"""Layer normalization of torch's layers, cells and functions, against NumPy's."""

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from gatecore import backends  # noqa: E402
from gatecore.backends.torch import (  # noqa: E402
    GRU,
    LSTM,
    GRUCell,
    LSTMCell,
    MinGRU,
    MinGRUCell,
    Minimal,
    MinimalCell,
    convert,
    layer_vjp,
    watch,
)
from gatecore.backends.torch.memory_cores.factory import recurrent_core  # noqa: E402
from gatecore.backends.torch.nn.parameters import core_params  # noqa: E402
from gatecore.backends.torch.sequence import parallel  # noqa: E402
from gatecore.contracts.agent import AgentSpec  # noqa: E402
from tests.support import EVERY_CORE, GATINGS, equations, norm_error, random_params  # noqa: E402

numpy = backends.load("numpy")
LAYERS = {"lstm": LSTM, "gru": GRU, "minimal": Minimal, "mingru": MinGRU}
CELLS = {"lstm": LSTMCell, "gru": GRUCell, "minimal": MinimalCell, "mingru": MinGRUCell}
MODULES = [*LAYERS.values(), *CELLS.values()]
IMPLEMENTATIONS = [(core, impl) for core in LAYERS for impl in ("reference", "plain")]
every = pytest.mark.parametrize("core", EVERY_CORE)
kinds = pytest.mark.parametrize("kind", MODULES)
T, B, INPUTS, D = 4, 2, 3, 6
# torch's own tracing reads .grad of a tensor inside scan, and warns of its script
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning",
    "ignore:.torch.jit.*:DeprecationWarning",
)


def stirred(module):
    """The module with other gains and larger weights than initial ones."""
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return module


def layer_of(core, **settings):
    return stirred(LAYERS[core](INPUTS, D, layer_norm=True, dtype=torch.float64, **settings))


def params_of(layer, k):
    """The parameters of a layer or direction as NumPy's functions take them."""
    weights = core_params(layer._cells[k], layer._weights(k), layer.two_biases, torch.float64)
    return {name: value.detach().numpy() for name, value in weights.items()}


def chosen(core):
    """The name of the implementation that runs a layer."""
    return "reference" if EVERY_CORE[core].recurrent else "parallel"


@pytest.mark.parametrize(("core", "impl"), [*IMPLEMENTATIONS, ("mingru", "parallel")])
@pytest.mark.parametrize("name", GATINGS)
def test_functions_and_their_gradients_are_numpys(core, name, impl, rng):
    layer = equations(core, GATINGS[name])
    arrays = random_params(layer, INPUTS, D, rng, layer_norm=True)
    arrays["x"] = rng.standard_normal((T, B, INPUTS))
    arrays |= {part: rng.standard_normal((B, D)) for part in EVERY_CORE[core].state_names}
    cotangent = rng.standard_normal((T, B, D))
    expected, exact = numpy.layer_vjp(core, arrays, cotangent, GATINGS[name])
    output, gradients = layer_vjp(core, arrays, cotangent, GATINGS[name], impl=impl)
    assert norm_error(output, expected) < 1e-12
    assert gradients.keys() == exact.keys()
    for key, value in exact.items():
        assert norm_error(gradients[key], value) < 1e-10, key


@every
def test_a_layer_is_numpys_in_both_directions_of_a_stack(core, rng):
    layer = layer_of(core, num_layers=2, bidirectional=True)
    assert layer.last_impl is None
    x = rng.standard_normal((T, B, INPUTS))
    output, _ = layer(torch.tensor(x))
    assert layer.last_impl == chosen(core)
    for k in (0, 2):
        ahead = getattr(numpy, core)(params_of(layer, k), x)[0]
        behind = getattr(numpy, core)(params_of(layer, k + 1), x[::-1].copy())[0]
        x = np.concatenate([ahead, behind[::-1]], -1)
    assert norm_error(output.detach().numpy(), x) < 1e-12


@pytest.mark.parametrize(
    ("core", "settings"),
    [*((core, {}) for core in LAYERS), *((core, {"bias": False}) for core in LAYERS),
     *((core, {"two_biases": False}) for core in LAYERS if core != "mingru")],
)  # fmt: skip
def test_every_parameter_gets_a_gradient_and_starts_neutral(core, settings):
    layer = LAYERS[core](INPUTS, D, layer_norm=True, **settings)
    names = [name for name, _ in layer.named_parameters() if name.startswith("norm")]
    expected = ["norm_ih_l0"] + ["norm_hh_l0"] * EVERY_CORE[core].recurrent
    expected += ["norm_c_l0"] * (core == "lstm")
    expected += ["norm_c_bias_l0"] * (core == "lstm" and settings.get("bias", True))
    assert names == expected
    for name in names:
        start = 0 if name == "norm_c_bias_l0" else 1
        assert (getattr(layer, name) == start).all()
    assert layer.all_weights[0][-1] is getattr(layer, names[-1])
    layer(torch.randn(T, B, INPUTS))[0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("candidate", ["linear", "tanh"])
def test_a_mingru_saves_its_states_alone_and_normalizes_again_in_parts(candidate, monkeypatch):
    layer, x = layer_of("mingru", candidate=candidate), torch.randn(17, B, INPUTS).double()
    saved, weights = [], list(layer.parameters())
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.shape) or t, lambda t: t
    ):
        whole, _ = layer(x)
    assert [shape for shape in saved if len(shape) == 3] == [x.shape, whole.shape]
    expected, _, pullback = numpy.mingru(params_of(layer, 0), x.numpy(), candidate=candidate)
    monkeypatch.setitem(parallel._ELEMENTS, "cpu", 3 * B * D)
    parts, _ = layer(x)
    exact = pullback(np.ones_like(expected))[0]
    for output in (whole, parts):
        assert norm_error(output.detach().numpy(), expected) < 1e-12
        names = ("weight_ih", "bias", "norm_ih")
        for name, slope in zip(names, torch.autograd.grad(output.sum(), weights), strict=True):
            assert norm_error(slope.numpy(), exact[name]) < 1e-12, name


def test_the_other_parameters_are_drawn_as_without():
    torch.manual_seed(0)
    plain = LSTM(INPUTS, D)
    torch.manual_seed(0)
    normalized = LSTM(INPUTS, D, layer_norm=True)
    for name, value in plain.named_parameters():
        assert torch.equal(getattr(normalized, name), value), name


def test_a_projection_follows_the_normalized_cell_state(rng):
    layer = layer_of("lstm", proj_size=2, mechanism="standard")
    x = torch.tensor(rng.standard_normal((T, B, INPUTS)))
    output, (last, _) = layer(x)
    own, norm = layer, nn.functional.layer_norm
    h, c = torch.zeros(B, 2).double(), torch.zeros(B, D).double()
    for t in range(T):
        logits = norm(x[t] @ own.weight_ih_l0.T, (4 * D,), own.norm_ih_l0)
        logits = logits + norm(h @ own.weight_hh_l0.T, (4 * D,), own.norm_hh_l0)
        i, f, u, o = (logits + own.bias_ih_l0 + own.bias_hh_l0).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * u.tanh()
        inner = norm(c, (D,), own.norm_c_l0, own.norm_c_bias_l0).tanh()
        h = (o.sigmoid() * inner) @ own.weight_hr_l0.T
        torch.testing.assert_close(output[t], h, rtol=0, atol=1e-12)
    assert torch.equal(last[0], output[-1])


@every
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_is_a_layer_of_one_step(core, bias):
    layer = layer_of(core, bias=bias)
    one = CELLS[core](INPUTS, D, bias=bias, layer_norm=True, dtype=torch.float64)
    one.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x, state = torch.randn(T, B, INPUTS, dtype=torch.float64), None
    for t in range(T):
        state = one(x[t], state)
        hidden = state[0] if isinstance(state, tuple) else state
        torch.testing.assert_close(hidden, layer(x[: t + 1])[0][-1], rtol=0, atol=1e-12)


@every
def test_gradients_have_gradients(core):
    layer = stirred(LAYERS[core](1, 2, layer_norm=True, dtype=torch.float64))
    x = torch.randn(2, 1, 1).double().requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def output(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))[0]

    values = [value.detach().requires_grad_() for value in layer.parameters()]
    assert torch.autograd.gradcheck(output, (x, *values))
    assert layer.last_impl == chosen(core)
    assert torch.autograd.gradgradcheck(output, (x, *values), atol=1e-4)


@pytest.mark.parametrize(("core", "zoneout"), [("lstm", (0.5, 0.1)), ("mingru", 0.1)])
def test_packed_sequences_resets_and_zoneout_are_numpys(core, zoneout, rng):
    layer = layer_of(core, zoneout=zoneout).eval()
    x, resets = rng.standard_normal((T, B, INPUTS)), rng.random((T, B)) < 0.5
    expected = getattr(numpy, core)(params_of(layer, 0), x, resets=resets, zoneout=zoneout)[0]
    output, _ = layer(torch.tensor(x), resets=torch.tensor(resets))
    assert norm_error(output.detach().numpy(), expected) < 1e-12
    packed = nn.utils.rnn.pack_padded_sequence(torch.tensor(x), [T, 2])
    padded, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0])
    torch.testing.assert_close(padded[:2], layer(torch.tensor(x))[0][:2], rtol=0, atol=1e-12)


# --- precision ----------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_weights_and_outputs_alone(core, dtype):
    low = stirred(LAYERS[core](INPUTS, D, layer_norm=True)).to(dtype)
    wide, x = copy.deepcopy(low).float(), (100 * torch.randn(T, B, INPUTS)).to(dtype)
    output, _ = low(x)
    assert output.dtype == dtype
    assert torch.equal(output, wide(x.float())[0].to(dtype))


@every
def test_autocast_changes_the_outputs_type_alone(core):
    layer, x = LAYERS[core](INPUTS, D, layer_norm=True), torch.randn(T, B, INPUTS)
    expected = layer(x)[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x)[0], expected)


# --- states -------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("name", ["standard", "UR", "OM"])
def test_a_state_loads_into_an_equal_module_and_no_other(kind, name):
    source, target = (kind(INPUTS, D, mechanism=name, layer_norm=True) for _ in range(2))
    target.load_state_dict(source.state_dict())
    assert all(map(torch.equal, source.parameters(), target.parameters()))
    plain = kind(INPUTS, D, mechanism=name)
    with pytest.raises(RuntimeError, match=f"make the layer with mechanism='{name}' and layer_nor"):
        plain.load_state_dict(source.state_dict(), strict=False)
    with pytest.raises(RuntimeError, match="layer_norm"):
        target.load_state_dict(plain.state_dict())


def test_a_state_of_torch_is_refused():
    layer = LSTM(INPUTS, D, mechanism="standard", layer_norm=True)
    with pytest.raises(RuntimeError, match=r"records no mechanism.*layer_norm=True"):
        layer.load_state_dict(nn.LSTM(INPUTS, D).state_dict())


def test_another_mechanism_with_layer_norm_is_refused():
    state = LSTM(INPUTS, D, mechanism="UM", layer_norm=True).state_dict()
    with pytest.raises(
        RuntimeError, match=r"is of mechanism 'UM'.*make the layer with mechanism='UM'"
    ):
        LSTM(INPUTS, D, mechanism="OM", layer_norm=True).load_state_dict(state)


@kinds
def test_copies_and_files_keep_it(kind):
    module, x = stirred(kind(INPUTS, D, layer_norm=True)), torch.randn(B, INPUTS)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for other in (copy.deepcopy(module), torch.load(stream, weights_only=False)):
        assert other.layer_norm
        assert "layer_norm=True" in repr(other)
        expected, got = (m(x) for m in (module, other))
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    module.half().load_state_dict(copy.deepcopy(module).bfloat16().state_dict())


def test_parts_that_cannot_be_normalized_refuse_it():
    with pytest.raises(
        ValueError, match="layer_norm must be False for a layer with torch's weights"
    ):
        LSTM.from_lstm(nn.LSTM(INPUTS, D), layer_norm=True)
    with pytest.raises(RuntimeError, match=r"LSTM with layer normalization cannot be compiled by"):
        torch.jit.script(LSTM(INPUTS, D, layer_norm=True))
    with pytest.raises(ValueError, match="it has no layer normalization"):
        LSTM(INPUTS, D, layer_norm=True, impl="native")(torch.randn(T, B, INPUTS))
    with pytest.raises(TypeError, match="layer_norm must be True or False"):
        GRU(INPUTS, D, layer_norm=1)
    assert not convert(nn.LSTM(INPUTS, D)).layer_norm


# --- tools --------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["lstm", "mingru"])
def test_compiled_and_exported_layers_are_the_same(core):
    layer, x = layer_of(core), torch.randn(T, B, INPUTS).double()
    expected = layer(x)[0]
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)[0]
    time = ({0: torch.export.Dim("time", min=2)},)
    exported = torch.export.export(layer, (x[1:],), dynamic_shapes=time).module()(x)[0]
    for result in (compiled, exported):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@every
def test_traced_and_mapped_layers_are_the_same(core):
    layer, x = layer_of(core), torch.randn(T, B, INPUTS).double()
    expected = layer(x)[0]
    traced = torch.fx.symbolic_trace(nn.Sequential(layer))(x)[0]
    mapped = torch.vmap(lambda one: layer(one)[0], 1, 1)(x)
    for result in (traced, mapped):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    with torch.autograd.profiler.profile(), pytest.raises(ValueError, match="under tracing"):
        LAYERS[core](INPUTS, D, layer_norm=True, impl="reference")(x.float())


@every
def test_the_core_of_an_agent_has_it(core):
    spec = AgentSpec(shape=(3,), actions=2, hidden_size=D, core=core, layer_norm=True)
    module = recurrent_core(spec, INPUTS)
    assert module.layer.layer_norm
    assert module.forget_gates(torch.randn(T, B, INPUTS)).value.shape == (1, D)


@every
def test_watched_gates_of_layers_and_cells_are_numpys(core):
    layer, x = layer_of(core), torch.randn(T, B, INPUTS).double()
    one = CELLS[core](INPUTS, D, layer_norm=True, dtype=torch.float64)
    one.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    for module, xs, name in ((layer, x, "l0"), (one, x[0], "")):
        with watch(module) as watched:
            module(xs)
        steps = x.numpy() if name else x.numpy()[:1]
        gates = getattr(numpy, core)(params_of(layer, 0), steps)[2].gates()
        assert norm_error(watched.means()[name].value, gates.value.mean((0, 1))) < 1e-12
