"""Adding, and forgetting, which is Adding with saturated initial gates."""

import numpy as np
import pytest

from gatecore import mechanism, sigmoid, timescale
from gatecore.tasks import Config
from gatecore.tasks.cli.gates import initial_timescales
from gatecore.tasks.problems.adding import Adding
from gatecore.tasks.training.config import ConfigError


@pytest.mark.parametrize("length", [2, 9, 50])
def test_the_target_is_the_sum_of_one_marked_value_from_each_half(length):
    batch = Adding(length=length).batch(seed=1, step=0, size=300)
    assert batch.inputs.shape == (length, 300, 2)
    assert batch.targets.shape == (1, 300, 1)
    for column in range(300):
        values, markers = batch.inputs[:, column].T.tolist()
        assert all(0 <= value < 1 for value in values)
        marked = [index for index, marker in enumerate(markers) if marker == 1]
        assert sorted(markers) == [0] * (length - 2) + [1] * 2
        assert marked[0] < length / 2 <= marked[1]
        assert batch.targets[0, column, 0] == pytest.approx(sum(values[i] for i in marked), 1e-6)


def test_every_index_of_a_half_can_be_marked():
    markers = Adding(length=9).batch(seed=1, step=0, size=2000).inputs[:, :, 1]
    share = markers.mean(axis=1)
    np.testing.assert_allclose(share[:5], 1 / 5, atol=0.04)
    np.testing.assert_allclose(share[5:], 1 / 4, atol=0.04)


def test_the_baseline_is_the_score_of_a_memoryless_predictor():
    """The best linear predictor from the last input, fitted on other sequences."""
    task = Adding(length=200)
    parts = [task.batch(seed=0, step=step, size=20_000) for step in (0, 1)]
    features = [np.insert(part.inputs[-1], 0, 1, axis=1).astype(float) for part in parts]
    targets = [part.targets[0, :, 0].astype(float) for part in parts]
    weights = np.linalg.lstsq(features[0], targets[0])[0]
    error = ((features[1] @ weights - targets[1]) ** 2).mean()
    assert task.baselines()["always 1"]["loss"] == 1 / 6 == pytest.approx(error, rel=0.03)


@pytest.mark.parametrize("name", ["standard", "C", "U", "R", "CR", "UR"])
def test_forgetting_starts_every_effective_gate_at_sigmoid_of_6(name):
    chosen = Config.of("forgetting", name).mechanism
    steps = initial_timescales(chosen, "lstm", 64, seed=0)
    np.testing.assert_allclose(steps, timescale(sigmoid(6.0)), rtol=1e-13)


def test_the_opposed_refine_bias_of_listing_2_halves_the_timescale():
    """Proposition 2 at r = 1 − f; so forgetting uses a neutral refine gate."""
    listing = mechanism("UR", initial="constant", forget_bias=6.0, refine_bias="opposed")
    main = 1 + np.exp(6)
    refined = main**2 / (2 * main - 1 - 2 * (main - 1) / main)
    steps = initial_timescales(listing, "lstm", 64, seed=0)
    np.testing.assert_allclose(steps, refined, rtol=1e-12)
    assert refined == pytest.approx(main / 2, rel=0.01)


@pytest.mark.parametrize("name", ["O", "OR", "OM", "M", "UM"])
def test_forgetting_refuses_gates_that_cannot_start_at_sigmoid_of_6(name):
    with pytest.raises(ConfigError, match=f"{name}.*forgetting.*choose standard or R"):
        Config.of("forgetting", name)


def test_forgetting_accepts_other_biases():
    settings = {"forget_bias": 4.0, "mechanism.refine_bias": "opposed"}
    chosen = Config.of("forgetting", "UR", **settings).mechanism
    assert (chosen.forget_bias, chosen.refine_bias, chosen.initial) == (4.0, "opposed", "constant")


def test_the_papers_setting_of_forgetting():
    config = Config.of("forgetting", "R", "paper")
    assert (config.task.length, config.hidden_size, config.learning_rate) == (500, 64, 1e-4)
    assert config.steps == 10_000
