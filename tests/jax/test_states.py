"""The states of nnx cells name their mechanism, and are refused by cells of another one."""

import numpy as np
import pytest

pytest.importorskip("flax")

import jax
import jax.numpy as jnp
from flax import nnx

from gatecore import mechanism
from gatecore.backends.jax import (
    GateUnit,
    GRUCell,
    LSTMCell,
    MinGRUCell,
    MinimalCell,
    convert,
    states,
)

REFUSED = pytest.raises(ValueError, match=r"the state is of mechanism .* make the cell with")


def cell_of(name="UR", seed=0, kind=LSTMCell, **settings):
    return kind(3, 8, mechanism=name, rngs=nnx.Rngs(seed), **settings)


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


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell, MinimalCell, MinGRUCell])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_state_with_layer_norm_is_refused_by_a_cell_without_and_the_other_way(kind, form):
    plain, normalized = (cell_of(kind=kind, layer_norm=flag) for flag in (False, True))
    for cell, other, has in ((plain, normalized, True), (normalized, plain, False)):
        before = mapped(np.asarray, nnx.to_pure_dict(nnx.state(cell)))
        with pytest.raises(ValueError, match=f"make the cell with .* and layer_norm={has}, or"):
            nnx.update(cell, form(other))
        after = nnx.to_pure_dict(nnx.state(cell))
        assert jax.tree.all(mapped(np.array_equal, before, after))
    same = cell_of(seed=1, kind=kind, layer_norm=True)
    nnx.update(same, form(normalized))
    assert np.array_equal(same.norm_ih[...], form(normalized)["norm_ih"][...])


def test_flaxs_cells_have_no_layer_normalization():
    with pytest.raises(ValueError, match=r"\(lstm_norm sigmoid none 1\): only .* without la"):
        cell_of("standard", layer_norm=True).to_flax()
    rnn = nnx.RNN(cell_of(layer_norm=True))
    with pytest.warns(UserWarning, match="convert replaced nothing"):
        convert(rnn)
    assert rnn.cell.layer_norm
    with pytest.raises(TypeError, match="layer_norm must be True or False"):
        cell_of(layer_norm=1)


def test_an_attribute_whose_name_begins_like_a_bias_is_none():
    cell = cell_of()
    cell.bias_of_my_own_making = nnx.Param(jnp.ones(2))
    nnx.update(cell, nnx.state(cell))


def test_masters_of_another_size_untied_gates_and_gate_units_are_refused():
    halved = cell_of(mechanism("OM", downsize=2))
    with REFUSED:
        nnx.update(halved, nnx.state(cell_of("OM")))
    with pytest.raises(ValueError, match=r"with mechanism=gatecore.mechanism\('OM', downsize=2\)"):
        nnx.update(cell_of("OM"), nnx.state(halved))
    with pytest.raises(ValueError, match=r"gatecore.mechanism\('OR', tied=False\)"):
        nnx.update(cell_of(), nnx.state(cell_of(mechanism("OR", tied=False))))
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
