"""MinGRU in torch: parallel equals step by step, and the layer is called as torch.nn.GRU is."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.autograd import gradgradcheck  # noqa: E402
from torch.func import functional_call, grad, vmap  # noqa: E402

from gatecore import backends, cells, mechanism  # noqa: E402
from gatecore.backends.native import library  # noqa: E402
from gatecore.backends.torch import GRU, MinGRU, MinGRUCell, convert, mingru  # noqa: E402
from gatecore.backends.torch.sequence import parallel  # noqa: E402
from tests.support import GATINGS  # noqa: E402

numpy = backends.load("numpy")
needs_library = pytest.mark.skipif(not library.available(), reason=str(library.unsupported()))
D = 6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def layer(*arguments, dtype=torch.float64, **keywords):
    return MinGRU(3, D, *arguments, dtype=dtype, **keywords)


def gradients(function, params, x, state, cotangents):
    """Outputs, last state and the gradients of all arguments, as float64 arrays."""
    leaves = [t.detach().requires_grad_() for t in (*params.values(), x, state)]
    results = function(dict(zip(params, leaves, strict=False)), *leaves[-2:])
    slopes = torch.autograd.grad(results, leaves, [c.to(x.dtype) for c in cotangents])
    return [value.detach().double().numpy() for value in (*results, *slopes)]


def error(got, exact):
    """The error in the Euclidean norm, relative."""
    return np.linalg.norm(got - exact) / (np.linalg.norm(exact) or 1)


@pytest.mark.parametrize("time", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("part", [1 << 18, 3 * D, 1])
@pytest.mark.parametrize("candidate", ["linear", "tanh"])
def test_every_length_equals_step_by_step(time, batch, part, candidate, monkeypatch, rng):
    """In one part of time, in parts of one step and of a few."""
    monkeypatch.setitem(parallel._ELEMENTS, "cpu", part)
    cell = cells.MinGRU(3, D, "UR", candidate=candidate)
    params = {k: torch.tensor(v) for k, v in cell.init(rng).items()}
    x, state = torch.randn(time, batch, 3).double(), torch.randn(batch, D).double()
    resets = torch.rand(time, batch) < 0.3
    cotangents = torch.randn(time, batch, D), torch.randn(batch, D)
    results = [
        gradients(
            lambda *arguments, impl=impl: mingru(
                *arguments, "UR", candidate=candidate, resets=resets, impl=impl
            ),
            params, x, state, cotangents,
        )
        for impl in ("parallel", "plain", "reference")
    ]  # fmt: skip
    *others, reference = results
    for other in others:
        assert max(map(error, other, reference)) < 1e-12


def test_products_of_equal_gates_keep_their_timescale():
    """1 − 1e-6 in float32 is 1 − 1.01e-6: the product of its values would be off by 1e-3."""
    steps, scale = 65_536, 1e6
    params = {"weight_ih": torch.zeros(2, 1), "bias": torch.tensor([np.log(scale - 1), 0.0])}
    params = {k: v.float() for k, v in params.items()}
    x, state = torch.zeros(steps, 1, 1), torch.ones(1, 1)
    _, last = mingru(params, x, state, "standard", impl="parallel")
    share = 1 / (1 + np.exp(params["bias"][0].item()))
    assert last.item() == pytest.approx((1 - share) ** steps, rel=1e-6)


@pytest.mark.parametrize(
    ("impl", "dtype"),
    [
        ("parallel", torch.float64),
        ("plain", torch.float64),
        pytest.param("native", torch.float32, marks=needs_library),
    ],
)
def test_a_reset_forgets_states_and_inputs_that_are_not_finite(impl, dtype):
    net, x = layer(impl=impl, dtype=dtype), torch.randn(9, 2, 3).to(dtype)
    resets = torch.zeros(9, 2, dtype=torch.bool)
    resets[5] = True
    alone, _ = net(x[5:])
    x[3] = torch.nan
    output, _ = net(x, torch.full((1, 2, D), torch.inf, dtype=dtype), resets=resets)
    torch.testing.assert_close(output[5:], alone)


def test_layers_and_directions_are_composed_of_single_ones():
    net, x = layer(2, bidirectional=True), torch.randn(7, 2, 3).double()
    output, last = net(x)
    below = x
    for k in range(2):
        parts = []
        for suffix in (f"_l{k}", f"_l{k}_reverse"):
            params = {"weight_ih": getattr(net, f"weight_ih{suffix}"),
                      "bias": getattr(net, f"bias_ih{suffix}")}  # fmt: skip
            flip = suffix.endswith("reverse")
            hidden, _ = mingru(params, below.flip(0) if flip else below)
            parts.append(hidden.flip(0) if flip else hidden)
        below = torch.cat(parts, -1)
    torch.testing.assert_close(output, below)
    torch.testing.assert_close(last[3], below[0, :, D:])


def test_a_sequence_in_parts_streams():
    net, x = layer(2, batch_first=True), torch.randn(2, 9, 3).double()
    whole, end = net(x)
    first, state = net(x[:, :4])
    second, last = net(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, end)


@pytest.mark.parametrize("candidate", ["linear", "tanh"])
def test_a_cell_makes_the_steps_of_a_layer(candidate):
    net = layer(candidate=candidate)
    cell = MinGRUCell(3, D, dtype=torch.float64, candidate=candidate)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in net.state_dict().items()})
    x, state, outputs = torch.randn(5, 2, 3).double(), None, []
    for now in x:
        state = cell(now, state)
        outputs.append(state)
    torch.testing.assert_close(torch.stack(outputs), net(x)[0])


def test_zoneout_draws_in_training_and_takes_the_mean_in_evaluation():
    net, x = layer(zoneout=0.3), torch.randn(40, 3, 3).double()
    assert not torch.equal(net(x)[0], net(x)[0])
    net.eval()
    params = {k.removesuffix("_l0").replace("_ih", "").replace("weight", "weight_ih"): v.detach()
              for k, v in net.named_parameters()}  # fmt: skip
    arrays = {k: v.numpy() for k, v in params.items()}
    expected = numpy.mingru(arrays, x.numpy(), zoneout=0.3)[0]
    torch.testing.assert_close(net(x)[0].detach().numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", GATINGS)
def test_derivatives_of_the_gradients(name):
    net = MinGRU(2, D, mechanism=GATINGS[name], dtype=torch.float64)
    x = torch.randn(3, 1, 2, dtype=torch.float64, requires_grad=True)
    assert net(x)[0].requires_grad
    assert net.last_impl == "parallel"
    assert gradgradcheck(lambda x: net(x)[0], x)


def test_functional_gradients_of_many_models_at_once():
    net, x = layer(), torch.randn(6, 2, 3).double()

    def loss(params, x):
        return functional_call(net, params, (x,))[0].square().sum()

    params = {k: v.detach() for k, v in net.named_parameters()}
    got = grad(loss)(params, x)
    assert net.last_impl == "plain"
    loss(dict(net.named_parameters()), x).backward()
    for name, value in net.named_parameters():
        torch.testing.assert_close(got[name], value.grad)
    each = vmap(grad(loss), in_dims=(None, 1))(params, x.unsqueeze(2))
    torch.testing.assert_close(each["weight_ih_l0"].sum(0), got["weight_ih_l0"])


def shapes_saved_by(net, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.shape) or t, lambda t: t
    ):
        net(x)
    return saved


def test_only_the_states_are_saved_for_the_backward_pass():
    shapes = shapes_saved_by(layer(mechanism="OM", bias=False), torch.randn(50, 4, 3).double())
    assert [shape for shape in shapes if len(shape) == 3] == [(50, 4, 3), (50, 4, D)]


@needs_library
def test_the_library_saves_the_input_and_every_16th_state():
    net = layer(bias=False, dtype=torch.float32)
    shapes = shapes_saved_by(net, torch.randn(50, 4, 3))
    assert net.last_impl == "native"
    assert (4 * 4 * D,) in shapes
    assert [shape for shape in shapes if len(shape) > 2] == [(50, 4, 3)]


@pytest.mark.parametrize(("one", "other"), [("linear", "tanh"), ("tanh", "linear")])
def test_states_of_another_candidate_or_core_are_refused(one, other):
    source, target = layer(candidate=one), layer(candidate=other)
    with pytest.raises(RuntimeError, match="is of mechanism"):
        target.load_state_dict(source.state_dict())
    same = layer(candidate=one)
    same.load_state_dict(copy.deepcopy(source).state_dict())
    assert torch.equal(same.weight_ih_l0, source.weight_ih_l0)


def test_the_parameters_are_one_matrix_and_one_bias():
    net = MinGRU(3, 8, mechanism=mechanism("OM", downsize=4))
    assert {k: tuple(v.shape) for k, v in net.named_parameters()} == {
        "weight_ih_l0": (20, 3), "bias_ih_l0": (20,)}  # fmt: skip
    assert {k for k, _ in MinGRU(3, 8, bias=False).named_parameters()} == {"weight_ih_l0"}
    assert repr(MinGRU(3, 8)) == "MinGRU(3, 8, mechanism='UR', candidate='linear')"
    assert MinGRUCell(3, 8, bias=False).bias_ih is None


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("call", "kind", "complaint"),
    [
        (lambda: layer(candidate="relu"), ValueError, "candidate='relu' is unknown"),
        (lambda: layer(two_biases=True), TypeError, "two_biases"),
        (lambda: layer(impl="fused")(torch.zeros(2, 1, 3).double()), ValueError, "impl='fused'"),
        (lambda: layer()(torch.zeros(2, 1, 4).double()), RuntimeError, "must be equal to"),
        (lambda: layer()(torch.zeros(0, 1, 3).double()), RuntimeError, "larger than 0"),
        (
            lambda: torch.jit.script(layer()),
            RuntimeError,
            "no recurrent weights cannot be compiled",
        ),
        (lambda: convert(torch.nn.GRU(3, 4), impl="parallel"), TypeError, "impl"),
    ],
)
def test_errors_say_what_was_wrong(call, kind, complaint):
    with pytest.raises(kind, match=complaint):
        call()


def test_a_layer_whose_gates_depend_on_the_state_is_not_parallel():
    from gatecore.backends.torch import GRU

    with pytest.raises(ValueError, match="its gates depend on the state"):
        GRU(3, 4, impl="parallel")(torch.zeros(2, 1, 3))


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (GRU(3, 4), "load weights of a mingru, or make a layer that is a gru$"),
        (
            MinGRU(3, 4, candidate="tanh", layer_norm=True),
            "make the layer with mechanism='UR' and layer_norm=True and candidate='tanh', or load "
            "weights that were trained with 'UR' and layer_norm=False and candidate='linear'$",
        ),
    ],
)
def test_a_state_of_another_core_or_setting_is_refused_with_advice(source, advice):
    with pytest.raises(RuntimeError, match=advice):
        MinGRU(3, 4).load_state_dict(source.state_dict())


@pytest.mark.parametrize("kind", [GRU, MinGRU])
def test_an_input_size_that_is_no_int_of_c_is_refused(kind):
    with pytest.raises(ValueError, match=r"^input_size must be at most 2147483647, got 10{30}$"):
        kind(10**30, 4)
