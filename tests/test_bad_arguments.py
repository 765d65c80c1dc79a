"""Arguments of wrong kinds end in a ValueError or TypeError that names them."""

import importlib
import json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from gatecore import Batch, Mechanism, ModelSpec, backends, cumax, init, mechanism, sigmoid
from gatecore.analysis.gradients import gradient_bounds
from gatecore.cells import LSTM, Minimal
from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.memory import Memory
from tests.support import CORES

T, B, X, H = 4, 2, 3, 4
LIBRARIES = ["numpy", "torch", "jax"]
NOT_NUMBERS = [
    np.bool_(True), True, "8", 8 + 0j, None, [8], b"8", object(), Decimal(8), Fraction(8),
    np.array([8]), np.array(True), np.array("8"), np.array(8j), np.ma.array(8), np.ma.masked,
    np.timedelta64(8, "ns"), np.datetime64(8, "ns"),
]  # fmt: skip
ONE = [np.int8(8), np.uint64(8), np.array(8), np.array(8, np.int16)]  # that are taken as 8
REAL = [*ONE, np.float16(8), np.float64(8), np.longdouble(8), np.array(8.0), np.array(8.0, "f4")]


def refused(named, call):
    with pytest.raises((TypeError, ValueError), match=rf"^{named}"):
        call()


@pytest.mark.parametrize("value", [*NOT_NUMBERS, float("nan"), 2**63, 10**40])
def test_sizes(value):
    refused("hidden_size", lambda: LSTM(X, value))
    refused("input_size", lambda: LSTM(value, H))
    refused("downsize", lambda: mechanism("UM", downsize=value))
    refused("size", lambda: init.uniform(value, 0))


@pytest.mark.parametrize("value", [*NOT_NUMBERS, float("nan")])
def test_numbers(value):
    refused("forget_bias", lambda: mechanism("UR", forget_bias=value))
    refused("value", lambda: init.constant(3, value))
    refused("rng", lambda: LSTM(X, H).init(value))
    refused("t_max", lambda: init.chrono(3, value, 0))


@pytest.mark.parametrize("value", [*NOT_NUMBERS, LSTM, 3])
def test_mechanisms(value):
    refused("mechanism", lambda: mechanism(value))
    refused("mechanism", lambda: LSTM(X, H, value))
    if value != "8":
        refused("name", lambda: Mechanism(name=value))


@pytest.mark.parametrize("value", ONE)
def test_numpy_integers_are_taken_as_python_integers(value):
    cell = LSTM(value, value, mechanism("UM", downsize=value))
    spec = ModelSpec(input="one_hot", input_size=value, output_size=value, hidden_size=value,
                     layers=value, head=(value, value), read=value, streams=value)  # fmt: skip
    memory = Memory(slots=value, width=value, heads=value)
    agent = AgentSpec(shape=(value,), actions=value, hidden_size=value, unroll=value)
    numbers = (cell.hidden_size, cell.mechanism.downsize, spec.input_size, spec.layers, spec.read,
               *spec.head, spec.streams, memory.heads, *agent.shape, agent.unroll)  # fmt: skip
    assert [type(number) for number in numbers] == [int] * 11
    assert set(numbers) == {8}
    assert np.array_equal(
        cell.init(value)["bias"], LSTM(8, 8, mechanism("UM", downsize=8)).init(8)["bias"]
    )


@pytest.mark.parametrize("value", REAL)
def test_numpy_numbers_are_taken_as_python_numbers(value):
    gates = mechanism("C", t_max=value, forget_bias=value)
    agent = AgentSpec(shape=(3,), actions=2, hidden_size=4, gain=value, value_cost=value)
    numbers = (gates.t_max, gates.forget_bias, agent.gain, agent.value_cost)
    assert all(type(number) in (int, float) and number == 8 for number in numbers)
    json.dumps(vars(gates))
    assert np.array_equal(init.constant(2, value), [8, 8])
    assert np.array_equal(init.chrono(3, value, 0), init.chrono(3, 8, 0))


def test_numpy_numbers_of_learners_compute_in_the_dtype_of_the_learner():
    spec = ModelSpec(input="dense", input_size=2, output_size=2, hidden_size=4,
                     zoneout=np.array([0.1, 0.2]))  # fmt: skip
    batch = Batch(np.ones((5, 2, 2), np.float32), np.ones((5, 2), int))
    for name in ("numpy", "torch"):
        if name != "numpy":
            pytest.importorskip(name)
        ends = []
        for number in (float, np.float64, np.array):
            learner = backends.load(name).Learner(
                spec, seed=np.array(3), betas=np.array([0.9, 0.99]), eps=number(1e-7)
            )
            learner.step(batch, learning_rate=number(0.1), clip_norm=number(0.5))
            state = learner.state_dict()
            assert state["first.layers.0.bias"].dtype == np.float32
            ends.append({key: np.asarray(value).tobytes() for key, value in state.items()})
        assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("value", [np.int64(4), np.array(4)])
def test_numpy_numbers_of_torch_and_flax_modules(value):
    pytest.importorskip("torch", reason="torch is not installed")
    module, half = backends.load("torch"), np.float32(0.5)
    layer = module.LSTM(value, value, value, dropout=half, proj_size=np.int8(2), zoneout=half)
    sizes = layer.input_size, layer.hidden_size, layer.num_layers, layer.proj_size
    assert (sizes, layer.dropout, layer.zoneout) == ((4, 4, 4, 2), 0.5, (0.5, 0.5))
    assert repr(layer) == repr(module.LSTM(4, 4, 4, dropout=0.5, proj_size=2, zoneout=0.5))
    assert repr(module.GRUCell(value, value)) == repr(module.GRUCell(4, 4))
    assert repr(module.GateUnit(value)) == repr(module.GateUnit(4))
    dnc = module.DNC(value, value, slots=value, width=value, reads=value, clip=half)
    assert (type(dnc.slots), dnc.clip) == (int, 0.5)
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")
    cell = backends.load("jax").GRUCell(value, value, rngs=nnx.Rngs(0))
    assert (type(cell.in_features), cell.hidden_features) == (int, 4)


@pytest.mark.parametrize("value", [np.int64(4), np.array(4)])
def test_numpy_numbers_of_keras_layers(value):
    pytest.importorskip("keras", reason="keras is not installed")
    layer = importlib.import_module("gatecore.backends.keras").LSTM(
        value, seed=value, dropout=np.float32(0.5), recurrent_dropout=np.array(0.5),
        layer_norm=np.True_, use_bias=np.array(False),
    )  # fmt: skip
    config = json.loads(json.dumps(layer.get_config()))
    assert (config["units"], config["seed"], config["dropout"]) == (4, 4, 0.5)
    assert (config["layer_norm"], config["use_bias"]) == (True, False)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 4.0])
def test_sizes_of_torch_and_flax_modules(value):
    pytest.importorskip("torch", reason="torch is not installed")
    module = backends.load("torch")
    for name in ("input_size", "hidden_size", "num_layers", "proj_size"):
        sizes = {"input_size": 4, "hidden_size": 4, name: value}
        refused(name, lambda sizes=sizes: module.LSTM(**sizes))
    refused("size", lambda: module.GateUnit(value))
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")
    for name in ("in_features", "hidden_features"):
        sizes = {"in_features": 4, "hidden_features": 4, name: value}
        refused(name, lambda sizes=sizes: backends.load("jax").LSTMCell(**sizes, rngs=nnx.Rngs(0)))


def test_weights_are_counted_before_they_are_made():
    refused("input_size=1 and hidden_size=1048576 make", lambda: LSTM(1, 1 << 20))
    assert Minimal(1, 1 << 18).hidden_size == 1 << 18


def arguments(library, core):
    if library == "torch":
        make = pytest.importorskip("torch", reason="torch is not installed").tensor
    elif library == "jax":
        make = pytest.importorskip("jax", reason="JAX is not installed").numpy.asarray
    else:
        make = np.asarray
    params = {k: make(v.astype(np.float32)) for k, v in CORES[core](X, H).init(rng=0).items()}
    h = make(np.ones((B, H), np.float32))
    state = (h, h) if core == "lstm" else h
    x = make(np.ones((T, B, X), np.float32))
    return getattr(backends.load(library), core), make, params, {"x": x, "state": state}


WRONG = [3, 0.5, "8", "", b"x", [1.0], {}, object(), np.array(["a"]),
         np.ma.array(np.ones((T, B, X), np.float32), mask=True),
         np.ma.array(np.ones((B, H), np.float32)), np.ma.array(np.ones((T, B), bool))]  # fmt: skip


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays(library, core, value):
    layer, make, params, others = arguments(library, core)
    named = r"(params\[)?'?"
    for name in ("x", "state", "resets"):
        refused(name, lambda name=name: layer(params, **{**others, name: value}))
    for name in params:
        wrong = {**params, name: value}
        refused(named + name, lambda wrong=wrong: layer(wrong, **others))
    h = make(np.ones((B, H), np.float32))
    refused("state", lambda: layer(params, others["x"], (h, h, h)))
    refused("impl", lambda: layer(params, **others, impl=h))
    if not isinstance(value, float):
        refused("zoneout", lambda: layer(params, **others, zoneout=value))
    if core == "lstm":
        refused("return_cells", lambda: layer(params, **others, return_cells=value))
        refused("zoneout", lambda: layer(params, **others, zoneout=(value, "0.1")))


@pytest.mark.parametrize("core", CORES)
def test_biases_in_jax(core):
    layer, _, params, others = arguments("jax", core)
    for dtype in (np.complex64, np.float16, np.int32, bool):
        wrong = {**params, "bias": params["bias"].astype(dtype)}
        refused(r"params\['bias'\] is", lambda wrong=wrong: layer(wrong, **others))
    for bad in (np.nan, np.inf):
        for name in params:
            wrong = {**params, name: params[name].at[0].set(bad)}
            refused(rf"params\['{name}'\] has entries", lambda wrong=wrong: layer(wrong, **others))


@pytest.mark.parametrize("value", [3, "8", 2.0, None, [True], object()])
def test_flags_of_torch_layers(value):
    pytest.importorskip("torch", reason="torch is not installed")
    torch = backends.load("torch")
    refused("two_biases", lambda: torch.LSTM(X, H, two_biases=value))
    refused("two_biases", lambda: torch.GRUCell(X, H, two_biases=value))
    refused("return_cells", lambda: torch.LSTM(X, H, return_cells=value))
    assert torch.LSTM(X, H, two_biases=np.bool_(False)).two_biases is False


@pytest.mark.parametrize("size", [2**31, 2**63, 10**40])
def test_absurd_sizes_of_torch_layers(size):
    pytest.importorskip("torch", reason="torch is not installed")
    torch = backends.load("torch")
    for kind in ("LSTM", "GRU", "Minimal"):
        layer = getattr(torch, kind)
        refused("num_layers must be at most", lambda layer=layer: layer(X, H, size))
        refused("hidden_size must be at most", lambda layer=layer: layer(X, size))
    refused("input_size=3 and hidden_size=1048576", lambda: torch.LSTM(X, 1 << 20))
    refused("hidden_size", lambda: torch.LSTMCell(X, size))
    refused("size", lambda: torch.GateUnit(size))


@pytest.mark.parametrize("value", WRONG)
def test_inputs_and_states_of_torch_layers(value):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module = backends.load("torch")
    for kind in ("LSTM", "GRU", "Minimal"):
        layer, cell = getattr(module, kind)(X, H), getattr(module, f"{kind}Cell")(X, H)
        x = torch.ones(T, B, X)
        refused("input", lambda layer=layer: layer(value))
        refused("hx", lambda layer=layer, x=x: layer(x, value))
        refused("resets", lambda layer=layer, x=x: layer(x, resets=value))
        refused("input", lambda cell=cell: cell(value))
        refused("hx", lambda cell=cell, x=x: cell(x[0], value))
        refused("input", lambda cell=cell, x=x: cell(x[0].to(torch.complex64)))


@pytest.mark.parametrize("value", [*WRONG, np.ones((B, H), np.complex64), np.ones((0,))])
def test_carries_and_inputs_of_flax_cells(value):
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")
    module = backends.load("jax")
    for kind in ("LSTMCell", "GRUCell", "MinimalCell"):
        cell = getattr(module, kind)(X, H, rngs=nnx.Rngs(0))
        carry, x = cell.initialize_carry((B, X)), np.ones((B, X), np.float32)
        refused("carry", lambda cell=cell, x=x: cell(value, x))
        refused("inputs", lambda cell=cell, carry=carry: cell(carry, value))
        refused("rngs", lambda kind=kind: getattr(module, kind)(X, H, rngs=value))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_torch_functions_refuse_parameters_of_another_dtype_than_x(dtype):
    torch = pytest.importorskip("torch")
    from gatecore.backends.torch.nn.functional import lstm

    arrays = LSTM(3, 8).init(0)
    params = {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
    with pytest.raises(TypeError, match=rf"params\['weight_ih'\] must be torch.{dtype} as x"):
        lstm(params, torch.ones(5, 2, 3, dtype=getattr(torch, dtype)))


@pytest.mark.parametrize("name", ["inputs", "targets", "resets"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_batches(library, name):
    if library != "numpy":
        pytest.importorskip(library)
    spec = ModelSpec(input="dense", input_size=2, output_size=2, hidden_size=4,
                     loss="squared_error")  # fmt: skip
    learner = backends.load(library).Learner(spec)
    batch = Batch(np.ones((3, 2, 2)), np.ones((3, 2, 2)), np.zeros((3, 2), bool))
    masked = batch._replace(**{name: np.ma.array(getattr(batch, name), mask=True)})
    refused(rf"batch\.{name} must be an array without", lambda: learner.evaluate([masked]))
    refused(rf"batch\.{name} must be", lambda: learner.step(masked, learning_rate=0.1))
    if name != "resets":
        wrong = batch._replace(**{name: getattr(batch, name) * 1j})
        refused(rf"batch\.{name} must be real", lambda: learner.evaluate([wrong]))


@pytest.mark.parametrize("function", [sigmoid, cumax, init.uniform_quantile, gradient_bounds])
def test_functions_of_arrays_refuse_a_mask(function):
    masked = np.ma.array([0.25, 0.5], mask=[True, False])
    arguments = {init.uniform_quantile: (masked, 8)}.get(function, (masked,))
    refused(r"(logit|u|g) must be an array without a mask", lambda: function(*arguments))
