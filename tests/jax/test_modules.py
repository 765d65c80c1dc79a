"""The flax cells work where flax's cells do, and compute the same for mechanism `standard`."""

import numpy as np
import pytest

pytest.importorskip("flax")

import jax
import jax.numpy as jnp
from flax import nnx

from gatecore import Gate, mechanism
from gatecore.backends import jax as backend
from tests.support import norm_error

CELLS = {"lstm": backend.LSTMCell, "gru": backend.GRUCell, "minimal": backend.MinimalCell}
EVERY_CELL = CELLS | {"mingru": backend.MinGRUCell}
CORES = pytest.mark.parametrize("core", CELLS)


@pytest.fixture(autouse=True)
def single():
    """float32, as flax's users have it, with nothing promoted in silence."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("raise"):
        yield


def cell_of(core, name="UR", **settings):
    return EVERY_CELL[core](3, 8, mechanism=name, rngs=nnx.Rngs(0), **settings)


@nnx.jit
def run(module, *arguments, **keywords):
    """Call a module, compiled as a whole."""
    return module(*arguments, **keywords)


def sequences(batch=2, steps=5):
    return jnp.asarray(np.random.default_rng(5).standard_normal((batch, steps, 3)), jnp.float32)


@pytest.mark.parametrize("core", EVERY_CELL)
def test_a_cell_in_an_rnn_is_the_function_over_the_sequence(core):
    cell, x = cell_of(core), sequences()
    carry, outputs = run(nnx.RNN(cell, return_carry=True), x)
    expected, last = getattr(backend, core)(cell.params, x.swapaxes(0, 1))
    assert norm_error(outputs, expected.swapaxes(0, 1)) < 1e-6
    if core == "lstm":  # flax has (c, h)
        carry = carry[::-1]
    for part, exact in zip(*map(jax.tree.leaves, (carry, last)), strict=True):
        assert norm_error(part, exact) < 1e-6


def flax_cell(kind, rng, **settings):
    """A cell of flax with weights drawn by NumPy, which is quicker than flax's default."""

    def draw(key, shape, dtype):
        return jnp.asarray(0.3 * rng.standard_normal(shape), dtype)

    settings |= {"kernel_init": draw, "recurrent_kernel_init": draw, "bias_init": draw}
    return kind(3, 8, rngs=nnx.Rngs(1), **settings)


@pytest.mark.parametrize("kind", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell])
def test_a_cell_made_from_flaxs_computes_the_same_and_goes_back(kind, rng):
    with jax.enable_x64(True):
        cell = flax_cell(kind, rng, param_dtype=jnp.float64)
        ours = backend.GRUCell if kind is nnx.GRUCell else backend.LSTMCell
        x = jnp.asarray(sequences(), jnp.float64)
        expected = run(nnx.RNN(cell), x)
        for name in ("standard", "U", "C"):
            new = ours.from_flax(cell, name, keep_weights=True)
            assert new.mechanism.name == name
            assert norm_error(run(nnx.RNN(new), x), expected) < 1e-12
        back = new.to_flax(kind)
    assert type(back) is kind
    assert jax.tree.all(jax.tree.map(np.array_equal, nnx.state(back), nnx.state(cell)))


def test_what_a_cell_of_flax_cannot_compute_is_refused():
    with pytest.raises(ValueError, match=r"do not compute mechanism 'UR' \(lstm sig"):
        cell_of("lstm").to_flax()
    with pytest.raises(ValueError, match="do not compute mechanism 'standard'"):
        cell_of("minimal", "standard").to_flax()
    gru = cell_of("gru", "standard")
    gru.bias_n[...] = jnp.ones(8)
    with pytest.raises(ValueError, match=r"bias_n must be zero.*linen"):
        gru.to_flax()
    with pytest.raises(ValueError, match="kind must be GRUCell"):
        gru.to_flax(nnx.LSTMCell)
    with pytest.raises(TypeError, match=r"cell must be flax.nnx's GRUCell for a GRUCell, got L"):
        backend.GRUCell.from_flax(cell_of("lstm"))
    with pytest.raises(TypeError, match="none of flax's cells for a MinimalCell"):
        backend.MinimalCell.from_flax(gru)


def test_the_carry_of_an_lstm_is_c_then_h():
    cell, x = cell_of("lstm"), sequences()[:, 0]
    (c, h), output = run(cell, cell.initialize_carry(x.shape), x)
    assert np.array_equal(h, output)
    assert not np.array_equal(c, h)


@CORES
def test_any_batch_axes_or_none(core):
    cell, x = cell_of(core), sequences()
    carry, output = run(cell, cell.initialize_carry(x.shape), x)
    _, one = run(cell, cell.initialize_carry((3,)), x[1, 2])
    assert output.shape == (2, 5, 8)
    assert norm_error(one, output[1, 2]) < 1e-6
    assert all(part.shape == (2, 5, 8) for part in jax.tree.leaves(carry))
    assert cell.num_feature_axes == 1


def test_both_directions_time_major_and_lengths():
    both = nnx.Bidirectional(nnx.RNN(cell_of("lstm")), nnx.RNN(cell_of("gru")))
    assert run(both, sequences()).shape == (2, 5, 16)
    rnn = nnx.RNN(cell_of("lstm"), return_carry=True)
    (_, h), outputs = run(rnn, sequences(), seq_lengths=jnp.array([2, 5]))
    assert norm_error(h[0], outputs[0, 1]) < 1e-6
    assert norm_error(h[1], outputs[1, 4]) < 1e-6


def test_a_carry_is_drawn_from_rngs_or_a_stream():
    cell, ones = cell_of("lstm"), nnx.initializers.ones
    for rngs in (nnx.Rngs(0), nnx.Rngs(0).carry):
        carry = cell.initialize_carry((2, 3), rngs, ones)
        assert all(np.all(part == 1) and part.shape == (2, 8) for part in carry)
    with pytest.raises(ValueError, match="rngs must be given"):
        cell.initialize_carry((2, 3), carry_init=ones)
    drawing = cell_of("gru", keep_rngs=True, carry_init=nnx.initializers.normal())
    assert float(jnp.std(drawing.initialize_carry((2, 3)))) > 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_cells_carry_float32_or_what_they_are_handed(dtype):
    cell = cell_of("lstm", dtype=dtype, param_dtype=dtype)
    rnn, x = nnx.RNN(cell, return_carry=True), sequences().astype(dtype)
    carry, outputs = run(rnn, x)
    assert outputs.dtype == dtype
    assert all(part.dtype == jnp.float32 for part in carry)
    half = tuple(jnp.zeros((2, 8), dtype) for _ in range(2))
    carry, rounded = run(rnn, x, initial_carry=half)
    assert all(part.dtype == dtype for part in carry)
    assert norm_error(rounded, outputs) < 0.05
    one_step = jax.eval_shape(cell, cell.initialize_carry((2, 3)), jnp.ones((2, 3), dtype))
    assert one_step[1].dtype == dtype


def test_another_gate_function_is_refused():
    with pytest.raises(ValueError, match=r"gate_fn must stay sigmoid.*complement"):
        cell_of("lstm", gate_fn=jax.nn.relu)
    with pytest.raises(ValueError, match="activation_fn must stay tanh"):
        cell_of("gru", activation_fn=jax.nn.elu)
    cell_of("minimal", gate_fn=jax.nn.sigmoid, activation_fn=jnp.tanh)


def test_initializers_and_metadata_reach_the_parameters():
    cell = cell_of(
        "lstm", mechanism("OM", downsize=4), kernel_init=nnx.initializers.ones,
        bias_init=nnx.initializers.constant(0.5), kernel_metadata={"note": "here"},
    )  # fmt: skip
    assert cell.weight_ih.shape == (4 * 8 + 2 * 2, 3)
    assert np.all(cell.weight_ih[...] == 1)
    assert np.all(cell.bias[...] == 0.5)
    assert cell.weight_ih.get_metadata()["note"] == "here"


def test_a_cell_trains_under_nnx_jit_and_grad():
    import optax

    cell, x = cell_of("lstm"), sequences()
    rnn = nnx.RNN(cell)
    optimizer = nnx.Optimizer(rnn, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(rnn, optimizer):
        loss, gradients = nnx.value_and_grad(lambda rnn: jnp.mean((rnn(x) - 0.5) ** 2))(rnn)
        optimizer.update(rnn, gradients)
        return loss

    losses = [float(step(rnn, optimizer)) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["standard", "UR", "OM"])
def test_a_gate_unit_gives_the_mechanisms_gate(name):
    gating = mechanism(name, downsize=4) if name == "OM" else mechanism(name)
    unit = backend.GateUnit(8, gating, rngs=nnx.Rngs(0))
    logits = np.random.default_rng(2).standard_normal((2, 3, unit.features), np.float32)
    gate = run(unit, logits)
    assert isinstance(gate, Gate)
    assert gate.value.shape == (2, 3, 8)
    assert norm_error(gate.value + gate.complement, np.ones((2, 3, 8))) < 1e-6
    assert jax.eval_shape(unit, logits.astype(jnp.bfloat16)).value.dtype == jnp.float32
    assert unit.features == {"standard": 8, "UR": 16, "OM": 12}[name]
    with pytest.raises(ValueError, match="logits must have"):
        unit(logits[..., 1:])


def test_a_gate_unit_refuses_untied_gates():
    with pytest.raises(ValueError, match=r"tied=False .* is for cells"):
        backend.GateUnit(8, mechanism("UR", tied=False), rngs=nnx.Rngs(0))


def test_a_trained_cell_is_exported():
    rnn, x = nnx.RNN(cell_of("lstm")), sequences()
    graph, state = nnx.split(rnn)
    weights = nnx.as_pure(state)
    of_module = jax.jit(lambda x: nnx.merge(graph, weights)(x))
    params = rnn.cell.params
    of_function = jax.jit(  # the native library is not part of what is stored
        lambda x: backend.lstm(params, x.swapaxes(0, 1), impl="reference")[0].swapaxes(0, 1)
    )
    for predict in (of_module, of_function):
        stored = jax.export.export(predict)(jax.ShapeDtypeStruct(x.shape, x.dtype)).serialize()
        assert norm_error(jax.export.deserialize(stored).call(x), rnn(x)) < 1e-6


def test_a_state_of_another_candidate_is_refused():
    linear, tanh = (cell_of("mingru", candidate=c) for c in ("linear", "tanh"))
    assert set(nnx.to_pure_dict(nnx.state(tanh))) == {
        "weight_ih",
        "bias_mingru_tanh_sigmoid_refine_1",
    }
    with pytest.raises(ValueError, match="the state is of mechanism"):
        nnx.update(linear, nnx.state(tanh))
    x = sequences()
    expected, _ = backend.mingru(tanh.params, x.swapaxes(0, 1), candidate="tanh")
    assert norm_error(run(nnx.RNN(tanh), x), expected.swapaxes(0, 1)) < 1e-6
