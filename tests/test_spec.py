"""A model specification determines the model on every backend."""

import dataclasses

import numpy as np
import pytest

from gatecore import Mechanism, ModelSpec, cells, mechanism

PLAIN = {"input": "dense", "input_size": 3, "output_size": 2, "hidden_size": 4}


def test_initial_parameters_are_named_by_layer():
    spec = ModelSpec(
        input="embedding",
        input_size=9,
        output_size=5,
        hidden_size=4,
        core="gru",
        layers=2,
        embedding_size=3,
        head=(7, 6),
        mechanism="UR",
    )
    assert {name: value.shape for name, value in spec.initial(0).items()} == {
        "embedding.weight": (9, 3),
        "layers.0.weight_ih": (16, 3),
        "layers.0.weight_hh": (16, 4),
        "layers.0.bias": (16,),
        "layers.0.bias_n": (4,),
        "layers.1.weight_ih": (16, 4),
        "layers.1.weight_hh": (16, 4),
        "layers.1.bias": (16,),
        "layers.1.bias_n": (4,),
        "head.0.weight": (7, 4),
        "head.0.bias": (7,),
        "head.1.weight": (6, 7),
        "head.1.bias": (6,),
        "head.2.weight": (5, 6),
        "head.2.bias": (5,),
    }


def test_embeddings_are_as_wide_as_the_hidden_state_by_default():
    spec = ModelSpec(**PLAIN | {"input": "embedding"})
    assert spec.initial(0)["embedding.weight"].shape == (3, 4)


@pytest.mark.parametrize("input_", ["one_hot", "dense"])
def test_other_inputs_have_their_own_width(input_):
    assert ModelSpec(**PLAIN | {"input": input_}).initial(0)["layers.0.weight_ih"].shape == (16, 3)


def test_initial_parameters_are_float64_and_a_function_of_the_seed():
    spec = ModelSpec(**PLAIN)
    one, same, other = spec.initial(1), spec.initial(1), spec.initial(2)
    assert all(value.dtype == np.float64 for value in one.values())
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)


def test_initial_parameters_have_torchs_distributions():
    spec = ModelSpec(input="embedding", input_size=400, output_size=50, hidden_size=64, head=(100,))
    params = spec.initial(0)
    assert abs(params["embedding.weight"].std() - 1) < 0.02
    for name, inputs in (("head.0", 64), ("head.1", 100), ("layers.0.weight_hh", 64)):
        names = [key for key in params if key.startswith(name)]
        for key in names:
            bound = inputs**-0.5
            assert 0.9 * bound < np.abs(params[key]).max() <= bound
    slots = np.split(params["layers.0.bias"], 4)
    assert slots[1].any()
    assert not slots[2].any()


def test_recurrent_biases_are_the_mechanisms():
    spec = ModelSpec(**PLAIN, mechanism=mechanism("standard", forget_bias=6.0))
    assert spec.initial(0)["layers.0.bias"].tolist() == [0] * 4 + [6] * 4 + [0] * 8


def test_defaults_are_those_of_the_paper():
    spec = ModelSpec(**PLAIN)
    assert (spec.core, spec.layers, spec.head, spec.zoneout) == ("lstm", 1, (), (0.0, 0.0))
    assert (spec.dropout, spec.read, spec.loss, spec.embedding_size) == (
        0.0,
        None,
        "cross_entropy",
        None,
    )


def test_a_specification_is_a_value():
    one, same = ModelSpec(**PLAIN, mechanism="UR"), ModelSpec(**PLAIN, mechanism=mechanism("UR"))
    assert one == same
    assert hash(one) == hash(same)
    assert isinstance(one.mechanism, Mechanism)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.layers = 2
    with pytest.raises(TypeError):
        ModelSpec("dense", 3, 2, 4)


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"input": "onehot"}, ValueError, "one_hot"),
        ({"core": "lsmt"}, ValueError, "lstm"),
        ({"loss": "mse"}, ValueError, "squared_error"),
        ({"mechanism": "RU"}, ValueError, "mechanism"),
        ({"hidden_size": 0}, ValueError, "hidden_size"),
        ({"hidden_size": 1}, ValueError, "hidden_size"),
        ({"hidden_size": 4.0}, TypeError, "hidden_size"),
        ({"mechanism": mechanism("UM", downsize=3)}, ValueError, "not divisible"),
        ({"layers": 0}, ValueError, "layers"),
        ({"read": 0}, ValueError, "read"),
        ({"head": (5, 0)}, ValueError, "head"),
        ({"head": 5}, TypeError, "head"),
        ({"zoneout": (0.5, 1.5)}, ValueError, "zoneout"),
        ({"zoneout": (0.5,)}, ValueError, "zoneout"),
        ({"zoneout": 0.5}, TypeError, "zoneout"),
        ({"dropout": 1.0}, ValueError, "dropout"),
        ({"dropout": "half"}, TypeError, "dropout"),
        ({"embedding_size": 3}, ValueError, "embedding_size"),
    ],
)
def test_errors_name_the_field(changes, error, complaint):
    with pytest.raises(error, match=complaint):
        ModelSpec(**PLAIN | changes)


@pytest.mark.parametrize("seed", [None, 0.5, True])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match="seed"):
        ModelSpec(**PLAIN).initial(seed)


def test_the_recurrent_layers_follow_one_another():
    layers = ModelSpec(**PLAIN, layers=3, core="minimal").cells()
    assert [(cell.input_size, cell.hidden_size) for cell in layers] == [(3, 4), (4, 4), (4, 4)]
    assert all(isinstance(cell, cells.Minimal) for cell in layers)
