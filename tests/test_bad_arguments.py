"""Arguments of wrong kinds end in a ValueError or TypeError that names them."""

import numpy as np
import pytest

from gatecore import Mechanism, backends, init, mechanism
from gatecore.cells import LSTM, Minimal
from tests.support import CORES

T, B, X, H = 4, 2, 3, 4
NOT_NUMBERS = [np.bool_(True), "8", 8 + 0j, None, [8], b"8", object()]


def refused(named, call):
    with pytest.raises((TypeError, ValueError), match=rf"^{named}"):
        call()


@pytest.mark.parametrize("value", [*NOT_NUMBERS, np.array(8), float("nan"), 2**63, 10**40])
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


def test_weights_are_counted_before_they_are_made():
    refused("input_size=1 and hidden_size=1048576 make", lambda: LSTM(1, 1 << 20))
    assert Minimal(1, 1 << 18).hidden_size == 1 << 18


LIBRARIES = ["numpy", "torch", "jax"]


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


WRONG = [3, 0.5, "8", "", b"x", [1.0], {}, object(), np.array(["a"])]


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
    refused("hidden_size", lambda: torch.GateUnit(size))


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
