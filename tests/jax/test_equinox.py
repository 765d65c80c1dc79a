"""The Equinox cells work where Equinox's do, and compute the same for mechanism `standard`."""

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("equinox", reason="equinox is not installed")

import equinox as eqx
import jax
import jax.numpy as jnp

from gatecore.backends import jax as backend
from gatecore.backends.jax import equinox as ours
from gatecore.backends.numpy import functional as reference
from tests.support import norm_error

KEY = jax.random.key(0)
CELLS = {"lstm": ours.LSTMCell, "gru": ours.GRUCell, "minimal": ours.MinimalCell,
         "mingru": ours.MinGRUCell}  # fmt: skip


def cell_of(core="lstm", name="UR", seed=0, **settings):
    return CELLS[core](3, 8, name, key=jax.random.key(seed), **settings)


def zeros(core, *shape):
    h = jnp.zeros((*shape, 8), jnp.float32)
    return (h, h) if core == "lstm" else h


def hidden(state):
    return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("core", CELLS)
def test_steps_mapped_over_a_batch_are_the_sequence(core, rng):
    cell, x = cell_of(core), jnp.asarray(rng.standard_normal((4, 2, 3)), jnp.float32)

    @eqx.filter_jit
    def steps(cell, x):
        def step(state, x):
            state = jax.vmap(cell)(x, state)
            return state, hidden(state)

        return jax.lax.scan(step, zeros(core, 2), x)

    state, outputs = steps(cell, x)
    expected, last = eqx.filter_jit(cell.scan)(x)
    params = {name: np.asarray(value) for name, value in cell.params.items()}
    exact, _, _ = getattr(reference, core)(params, np.asarray(x))
    for values in (outputs, expected):
        assert norm_error(values, exact) < 1e-5
    assert all(map(np.allclose, jax.tree.leaves(state), jax.tree.leaves(last)))


@pytest.mark.parametrize(("core", "kind"), [("lstm", eqx.nn.LSTMCell), ("gru", eqx.nn.GRUCell)])
def test_standard_has_the_parameters_of_equinox_and_computes_the_same(core, kind, rng):
    theirs = kind(3, 8, dtype=jnp.float64, key=KEY)
    names = [name for name in ("weight_ih", "weight_hh", "bias", "bias_n") if hasattr(theirs, name)]
    cell = eqx.tree_at(
        lambda cell: [getattr(cell, name) for name in names],
        cell_of(core, "standard", dtype=jnp.float64), [getattr(theirs, name) for name in names],
    )  # fmt: skip
    x, h = jnp.asarray(rng.standard_normal(3)), jnp.asarray(rng.standard_normal(8))
    state = (h, h / 2) if core == "lstm" else h
    for part, exact in zip(*map(jax.tree.leaves, (cell(x, state), theirs(x, state))), strict=True):
        assert norm_error(part, exact) < 1e-12


def test_a_cell_trains_as_equinoxs_examples_do():
    import optax

    cell, x = cell_of(), jnp.ones((5, 2, 3), jnp.float32)
    optimizer = optax.adamw(1e-2)
    state = optimizer.init(eqx.filter(cell, eqx.is_array))

    @eqx.filter_jit
    def step(cell, state):
        loss, grads = eqx.filter_value_and_grad(lambda c: jnp.mean((c.scan(x)[0] - 0.5) ** 2))(cell)
        updates, state = optimizer.update(grads, state, eqx.filter(cell, eqx.is_array))
        return eqx.apply_updates(cell, updates), state, loss

    losses = []
    for _ in range(20):
        cell, state, loss = step(cell, state)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]
    assert cell.code == cell_of().code


def test_an_ensemble_is_made_and_run_by_filter_vmap():
    keys, x = jax.random.split(KEY, 3), jnp.ones((5, 2, 3), jnp.float32)
    ensemble = eqx.filter_vmap(lambda key: ours.GRUCell(3, 8, key=key))(keys)
    outputs = eqx.filter_vmap(lambda cell: cell.scan(x)[0], in_axes=eqx.if_array(0))(ensemble)
    one = ours.GRUCell(3, 8, key=keys[1]).scan(x)[0]
    assert norm_error(outputs[1], one) < 1e-6


def test_a_file_of_another_mechanism_is_refused(tmp_path):
    path, x = tmp_path / "cell.eqx", jnp.ones((5, 2, 3), jnp.float32)
    saved = cell_of()
    eqx.tree_serialise_leaves(path, saved)
    for name in ("UR", "R"):
        loaded = eqx.tree_deserialise_leaves(path, cell_of(name=name, seed=1))
        assert np.array_equal(loaded.scan(x)[0], saved.scan(x)[0])
    foreign = eqx.tree_deserialise_leaves(path, cell_of(name="standard"))
    for run in (lambda cell: cell.scan(x), eqx.filter_jit(lambda cell: cell.scan(x))):
        with pytest.raises(ValueError, match=r"of mechanism 'R' or 'UR' .* has 'standard'"):
            run(foreign)
    average = jax.tree.map(lambda a, b: 0.3 * a + 0.7 * b, saved, saved)
    assert np.allclose(average.scan(x)[0], saved.scan(x)[0], atol=1e-6)
    assert backend.lstm(saved.params, x)[0].shape == (5, 2, 8)


@pytest.mark.parametrize("core", CELLS)
def test_a_file_of_a_normalized_cell_and_one_without_are_refused(core, tmp_path):
    path, x = tmp_path / "cell.eqx", jnp.ones((5, 2, 3), jnp.float32)
    saved = cell_of(core, layer_norm=True)
    eqx.tree_serialise_leaves(path, saved)
    loaded = eqx.tree_deserialise_leaves(path, cell_of(core, seed=1, layer_norm=True))
    assert np.array_equal(loaded.scan(x)[0], saved.scan(x)[0])
    foreign = eqx.tree_deserialise_leaves(path, cell_of(core))
    with pytest.raises(ValueError, match=r"make the cell with .* and layer_norm=True"):
        foreign.scan(x)
    eqx.tree_serialise_leaves(path, cell_of(core))
    with pytest.raises(RuntimeError, match="norm_ih"):  # Equinox's: the file has no gains
        eqx.tree_deserialise_leaves(path, saved)


def test_the_candidate_of_a_mingru_is_part_of_a_file(tmp_path):
    path, x = tmp_path / "cell.eqx", jnp.ones((5, 2, 3), jnp.float32)
    saved = cell_of("mingru", candidate="tanh")
    expected = backend.mingru(saved.params, x, candidate="tanh")[0]
    assert norm_error(saved.scan(x)[0], expected) < 1e-6
    eqx.tree_serialise_leaves(path, saved)
    foreign = eqx.tree_deserialise_leaves(path, cell_of("mingru"))
    with pytest.raises(ValueError, match="candidate='tanh', or load weights"):
        foreign.scan(x)
    with pytest.raises(ValueError, match="candidate='relu' is unknown"):
        cell_of("mingru", candidate="relu")
