"""The states of nnx cells name their mechanism, and are refused by cells of another one."""

import numpy as np
import pytest

pytest.importorskip("flax")

import jax
import jax.numpy as jnp
from flax import nnx

from gatecore import mechanism
from gatecore.backends.jax import GateUnit, GRUCell, LSTMCell, states

REFUSED = pytest.raises(ValueError, match=r"the state is of mechanism .* make the cell with")


def cell_of(name="UR", seed=0, kind=LSTMCell):
    return kind(3, 8, mechanism=name, rngs=nnx.Rngs(seed))


def mapped(function, *states):
    return jax.tree.map(function, *states)


FORMS = {
    "all": nnx.state,
    "the parameters": lambda cell: nnx.state(cell, nnx.Param),
    "a dict of arrays": lambda cell: nnx.to_pure_dict(nnx.state(cell)),
    "in half precision": lambda cell: mapped(lambda a: a.astype(jnp.bfloat16), nnx.state(cell)),
    "averaged": lambda cell: mapped(lambda a, b: (a + b) / 2, nnx.state(cell), nnx.state(cell)),
    "decayed": lambda cell: nnx.to_pure_dict(mapped(lambda a: 1e-3 * a, nnx.state(cell))),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_state_of_another_mechanism_is_refused(form):
    for name, other in [("UR", "standard"), ("standard", "UR"), ("UR", "OR"), ("O", "standard")]:
        cell, state = cell_of(name), form(cell_of(other))
        before = mapped(np.asarray, nnx.to_pure_dict(nnx.state(cell)))
        with REFUSED:
            nnx.update(cell, state)
        after = nnx.to_pure_dict(nnx.state(cell))
        assert jax.tree.all(mapped(np.array_equal, before, after))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_state_of_the_same_computation_is_taken(form):
    for name, other in [("UR", "R"), ("standard", "U"), ("C", "standard")]:
        cell, source = cell_of(name), cell_of(other, seed=1)
        nnx.update(cell, form(source))
        assert cell.mechanism.name == name
        values = jax.tree.leaves(nnx.state(cell)), jax.tree.leaves(form(source))
        assert all(map(np.array_equal, *values))


def test_masters_of_another_size_untied_gates_and_gate_units_are_refused():
    with REFUSED:
        nnx.update(cell_of(mechanism("OM", downsize=2)), nnx.state(cell_of("OM")))
    with pytest.raises(ValueError, match=r"gatecore.mechanism\('UR', tied=False\)"):
        nnx.update(cell_of(), nnx.state(cell_of(mechanism("UR", tied=False))))
    with REFUSED:
        nnx.update(GateUnit(8, "OR", rngs=nnx.Rngs(0)), nnx.state(GateUnit(8, rngs=nnx.Rngs(0))))


def test_a_state_of_another_kind_of_cell_is_not_advised_to_change_the_mechanism():
    saved = states.bias_name("gru", mechanism("UR"))
    with pytest.raises(ValueError, match="load weights of a lstm, or make a cell that is a gru"):
        states.check_name(saved, "lstm", mechanism("UR"))


def test_refused_while_jax_traces_and_inside_of_other_modules():
    state = nnx.state(nnx.RNN(cell_of("standard")))
    with REFUSED:
        nnx.jit(nnx.update)(nnx.RNN(cell_of()), state)
    with REFUSED:
        nnx.update(nnx.Bidirectional(nnx.RNN(cell_of()), nnx.RNN(cell_of())),
                   {"forward_rnn": state})  # fmt: skip


def test_a_merge_with_another_state_is_refused_when_the_cell_is_called():
    graph, _ = nnx.split(cell_of("standard"))
    cell, x = nnx.merge(graph, nnx.state(cell_of("UR"))), jnp.ones((2, 3), jnp.float32)
    with REFUSED:
        cell(cell.initialize_carry(x.shape), x)


def test_transformations_take_the_named_state():
    graph, state = nnx.split(cell_of())
    x = jnp.ones((2, 3), jnp.float32)
    cell = nnx.merge(graph, state)
    expected, _ = cell(cell.initialize_carry(x.shape), x)

    def run(state):
        cell = nnx.merge(graph, state)
        return cell(cell.initialize_carry(x.shape), x)[0]

    ensemble = mapped(lambda a: jnp.stack([a, a]), state)
    for result in (jax.jit(run)(state), mapped(lambda a: a[1], jax.vmap(run)(ensemble))):
        assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(result, expected, strict=True))
    assert nnx.state(cell, nnx.Param).keys() == nnx.state(cell).keys()  # nothing else is saved


def test_an_orbax_checkpoint_of_another_mechanism_is_refused(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    with checkpoint.StandardCheckpointer() as checkpointer:
        saved = cell_of("UR", kind=GRUCell)
        checkpointer.save(tmp_path / "state", nnx.state(saved))
        checkpointer.wait_until_finished()
        target = nnx.state(cell_of("standard", kind=GRUCell))
        with pytest.raises(ValueError, match="bias_gru_sigmoid_refine_1"):  # orbax compares names
            checkpointer.restore(tmp_path / "state", target)
        restored = checkpointer.restore(tmp_path / "state", nnx.state(cell_of(kind=GRUCell)))
    cell = cell_of(seed=1, kind=GRUCell)
    nnx.update(cell, restored)
    assert np.array_equal(cell.weight_hh[...], saved.weight_hh[...])
