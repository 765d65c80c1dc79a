"""The linen cells work where flax's cells do, and compute the same for mechanism `standard`."""

import numpy as np
import pytest

pytest.importorskip("flax")

import jax
import jax.numpy as jnp
from flax import linen

from gatecore.backends import jax as backend
from gatecore.backends.jax import linen as ours
from gatecore.backends.numpy import functional as reference
from tests.jax.compilation import quickly_compiled
from tests.support import EVERY_CORE as VALUES
from tests.support import norm_error

CELLS = {"lstm": ours.LSTMCell, "gru": ours.GRUCell, "minimal": ours.MinimalCell,
         "mingru": ours.MinGRUCell}  # fmt: skip
CORES = pytest.mark.parametrize("core", CELLS)
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def single():
    """float32, as flax's users have it, with nothing promoted in silence."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("raise"):
        yield


def sequences(*batch, steps=4, dtype=jnp.float32):
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.standard_normal((*(batch or (2,)), steps, 3)), dtype)


def initial(module, *arguments):
    return quickly_compiled(module.init)(KEY, *arguments)


def apply(module, variables, *arguments, **keywords):
    run = quickly_compiled(lambda variables, x: module.apply(variables, x, **keywords))
    return run(variables, *arguments)


@CORES
def test_a_cell_in_an_rnn_is_the_function_over_the_sequence(core):
    cell, x = CELLS[core](8, "UR"), sequences()
    rnn = linen.RNN(cell, return_carry=True)
    variables = initial(rnn, x)
    carry, outputs = apply(rnn, variables, x)
    params = cell.packed(variables["params"]["cell"])
    expected, last = getattr(backend, core)(params, x.swapaxes(0, 1))
    assert norm_error(outputs, expected.swapaxes(0, 1)) < 1e-6
    if core == "lstm":  # flax has (c, h)
        carry = carry[::-1]
    for part, exact in zip(*map(jax.tree.leaves, (carry, last)), strict=True):
        assert norm_error(part, exact) < 1e-6


@CORES
def test_in_double_precision_a_cell_is_the_numpy_backends(core, rng):
    params = VALUES[core](3, 8).init(1)
    x = rng.standard_normal((4, 2, 3))
    expected, _, _ = getattr(reference, core)(params, x)
    with jax.enable_x64(True):
        rnn = linen.RNN(CELLS[core](8, "UR", param_dtype=jnp.float64), time_major=True)
        name = f"bias_{core}_sigmoid_refine_1"
        variables = {name if key == "bias" else key: value for key, value in params.items()}
        outputs = apply(rnn, {"params": {"cell": variables}}, jnp.asarray(x))
    assert norm_error(outputs, expected) < 1e-12


@pytest.mark.parametrize("kind", [linen.LSTMCell, linen.OptimizedLSTMCell, linen.GRUCell])
def test_weights_of_flaxs_cells_are_imported_and_exported(kind, rng):
    theirs = linen.RNN(kind(8, param_dtype=jnp.float64))
    with jax.enable_x64(True):
        x = sequences(dtype=jnp.float64)
        variables = jax.tree.map(
            lambda a: jnp.asarray(rng.standard_normal(a.shape)),
            jax.eval_shape(theirs.init, KEY, x),
        )
        core = ours.GRUCell if kind is linen.GRUCell else ours.LSTMCell
        params = ours.from_flax(variables["params"])
        expected = apply(theirs, variables, x)
        for name in ("standard", "U", "C"):
            rnn = linen.RNN(core(8, name, param_dtype=jnp.float64))
            outputs = apply(rnn, {"params": params}, x)
            assert norm_error(outputs, expected) < 1e-12
        exported = ours.to_flax(params)
    assert jax.tree.structure(exported) == jax.tree.structure(variables["params"])
    assert jax.tree.all(jax.tree.map(np.array_equal, exported, variables["params"]))


def test_what_flax_does_not_compute_is_not_exported():
    x = sequences()
    params = initial(linen.RNN(ours.LSTMCell(8, "UR")), x)["params"]
    with pytest.raises(ValueError, match=r"'R' or 'UR' \(lstm sigmoid refine 1\), which flax's"):
        ours.to_flax(params)
    with pytest.raises(ValueError, match="params must hold the parameters of flax's LSTMCell"):
        ours.from_flax(params)


@pytest.mark.parametrize("jitted", [False, True])
def test_parameters_of_another_mechanism_are_refused(jitted):
    x = sequences()
    params = initial(linen.RNN(ours.LSTMCell(8, "UR")), x)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    average = jax.tree.map(lambda a, b: (a + b) / 2, params, params)
    for state in (params, half, average):
        for name in ("standard", "OR", "OM"):
            rnn = linen.RNN(ours.LSTMCell(8, name))
            run = jax.jit(rnn.apply) if jitted else rnn.apply
            with pytest.raises(ValueError, match="the state is of mechanism 'R' or 'UR'"):
                run(state, x)
    with pytest.raises(ValueError, match="the state is of mechanism"):
        ours.LSTMCell(8, "O").packed(params["params"]["cell"])


@pytest.mark.parametrize(
    ("kind", "setting", "advice"),
    [(ours.LSTMCell, {"layer_norm": True}, "layer_norm=True, or load .* and layer_norm=False"),
     (ours.MinGRUCell, {"layer_norm": True}, "layer_norm=True, or load .* and layer_norm=False"),
     (ours.MinGRUCell, {"candidate": "tanh"}, "candidate='tanh', or .* candidate='linear'")],
)  # fmt: skip
def test_parameters_of_another_setting_are_refused_both_ways(kind, setting, advice):
    x, cells = sequences(), (kind(8, **setting), kind(8))
    params = [jax.eval_shape(linen.RNN(cell).init, KEY, x)["params"] for cell in cells]
    with pytest.raises(ValueError, match=f"mechanism='R' or 'UR' and {advice}"):
        jax.eval_shape(linen.RNN(cells[1]).apply, {"params": params[0]}, x)
    with pytest.raises(ValueError, match="the state is of mechanism"):
        jax.eval_shape(linen.RNN(cells[0]).apply, {"params": params[1]}, x)
    with pytest.raises(ValueError, match="of the LSTM and the GRU without layer_norm convert"):
        ours.to_flax(params[0])


@CORES
def test_an_rnn_is_its_cell_step_by_step(core):
    cell, x = CELLS[core](6, "UR"), sequences()
    rnn = linen.RNN(cell, return_carry=True)
    variables, lengths = initial(rnn, x), jnp.array([2, 4])
    (last, outputs), (carry, carries) = apply(rnn, variables, x), (None, [])
    carry = cell.initialize_carry(KEY, x[:, 0].shape)
    step = jax.jit(cell.apply)
    for t in range(x.shape[1]):
        carry, output = step({"params": variables["params"]["cell"]}, carry, x[:, t])
        assert norm_error(output, outputs[:, t]) < 1e-5
        carries.append(carry)
    for part, exact in zip(*map(jax.tree.leaves, (carry, last)), strict=True):
        assert norm_error(part, exact) < 1e-5
    masked, _ = apply(rnn, variables, x, seq_lengths=lengths)
    for k, length in enumerate(lengths):
        for part, exact in zip(*map(jax.tree.leaves, (masked, carries[length - 1])), strict=True):
            assert norm_error(part[k], exact[k]) < 1e-5


def test_reversed_time_major_unrolled_and_with_many_batch_axes():
    cell, x = ours.LSTMCell(6, "OM"), sequences(2, 5)
    variables = initial(linen.RNN(cell), x)
    forward = apply(linen.RNN(cell), variables, x)
    assert forward.shape == (2, 5, 4, 6)
    major = apply(linen.RNN(cell, time_major=True), variables, jnp.moveaxis(x, 2, 0))
    assert norm_error(jnp.moveaxis(major, 0, 2), forward) < 1e-6
    assert norm_error(apply(linen.RNN(cell, unroll=3), variables, x), forward) < 1e-6
    backward = linen.RNN(cell, reverse=True, keep_order=True)
    assert norm_error(apply(backward, variables, x[..., ::-1, :])[..., ::-1, :], forward) < 1e-6


def test_both_directions_with_separate_or_one_cell():
    x, cell = sequences(), ours.GRUCell(6)
    for pair in ((linen.RNN(cell), linen.RNN(ours.LSTMCell(6))), (linen.RNN(cell),) * 2):
        both = linen.Bidirectional(*pair)
        assert apply(both, initial(both, x), x).shape == (2, 4, 12)
    summed = linen.Bidirectional(*pair, merge_fn=jnp.add, return_carry=True)
    carries, outputs = apply(summed, initial(summed, x), x)
    assert outputs.shape == (2, 4, 6)
    assert len(carries) == 2


def test_a_lifted_scan_and_a_jax_scan_are_the_rnn():
    cell, x = ours.LSTMCell(6), sequences()
    lifted = linen.scan(
        ours.LSTMCell, in_axes=1, out_axes=1, variable_broadcast="params",
        split_rngs={"params": False},
    )(6)  # fmt: skip
    carry = cell.initialize_carry(KEY, x[:, 0].shape)
    variables = lifted.init(KEY, carry, x)
    expected = apply(linen.RNN(cell), {"params": {"cell": variables["params"]}}, x)
    _, outputs = jax.jit(lifted.apply)(variables, carry, x)
    assert norm_error(outputs, expected) < 1e-6
    _, outputs = jax.lax.scan(
        lambda carry, x: cell.apply(variables, carry, x), carry, x.swapaxes(0, 1)
    )
    assert norm_error(outputs.swapaxes(0, 1), expected) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_with_either_carry(dtype):
    cell = ours.LSTMCell(6, dtype=dtype, param_dtype=dtype)
    rnn, x = linen.RNN(cell, return_carry=True), sequences(dtype=dtype)
    variables = initial(rnn, x)
    carry, outputs = apply(rnn, variables, x)
    assert outputs.dtype == dtype
    assert all(part.dtype == jnp.float32 for part in carry)
    half = tuple(jnp.zeros((2, 6), dtype) for _ in range(2))
    carry, rounded = apply(rnn, variables, x, initial_carry=half)
    assert all(part.dtype == dtype for part in carry)
    assert norm_error(rounded, outputs) < 0.05


def test_initializers_draw_each_projection_and_the_carry():
    ones, normal = linen.initializers.ones, linen.initializers.normal()
    cell = ours.LSTMCell(6, kernel_init=ones, bias_init=ones, carry_init=normal)
    carry = cell.initialize_carry(KEY, (2, 3))
    params = initial(cell, carry, jnp.ones((2, 3)))["params"]
    assert np.all(params["weight_ih"] == 1)
    assert np.all(params["bias_lstm_sigmoid_refine_1"] == 1)
    assert float(jnp.std(params["weight_hh"])) > 0
    assert not np.array_equal(*carry)


def test_bad_arguments_name_themselves():
    x, cell = jnp.ones((2, 3)), ours.LSTMCell(6)
    carry = cell.initialize_carry(KEY, x.shape)
    cases = {
        "gate_fn must stay sigmoid": (ours.LSTMCell(6, gate_fn=jax.nn.relu), carry, x),
        "is unknown": (ours.LSTMCell(6, "URX"), carry, x),
        r"carry must be of a floating type and shape \(2, 6\)": (cell, (x, x), x),
        r"carry must be a pair \(h, c\)": (cell, x, x),
        "inputs must be real": (cell, carry, x * 1j),
        "candidate='relu' is unknown": (ours.MinGRUCell(6, candidate="relu"), x, x),
        "recurrent_kernel_init must be None for a MinGRUCell": (
            ours.MinGRUCell(6, recurrent_kernel_init=linen.initializers.ones),
            x,
            x,
        ),
    }
    for message, (module, *arguments) in cases.items():
        with pytest.raises(ValueError, match=message):
            module.init(KEY, *arguments)
