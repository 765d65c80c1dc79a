"""Residual blocks as an agent's core: the model of a learner, and a state to resume from."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore import Batch, ModelSpec, backends  # noqa: E402
from gatecore.backends.torch.memory_cores.factory import recurrent_core  # noqa: E402
from gatecore.backends.torch.memory_cores.layers import Layers  # noqa: E402
from gatecore.contracts.memory import Core  # noqa: E402
from tests.support import EVERY_CORE  # noqa: E402
from tests.torch.test_agent import agent, episodes  # noqa: E402

T, B, INPUTS, H = 7, 3, 5, 6
BLOCKS = {"hidden_size": H, "layers": 3, "residual": True}


@pytest.fixture(params=[(core, None) for core in EVERY_CORE] + [("mingru", "tanh")],
                ids=lambda param: "-".join(filter(None, param)))  # fmt: skip
def core_and_learner(request):
    """An agent's core, and NumPy's learner of the same layers with the core's parameters."""
    settings = {"core": request.param[0], "candidate": request.param[1], **BLOCKS}
    core = recurrent_core(Core(**settings), INPUTS, dtype=torch.float64)
    learner = backends.load("numpy").Learner(
        ModelSpec(input="dense", input_size=INPUTS, output_size=2, loss="squared_error",
                  **settings),
        dtype="float64",
    )  # fmt: skip
    for name, value in core.named_parameters():
        name = name.replace("bias_ih_l0", "bias").removesuffix("_l0")
        if name.endswith("bias_hh"):  # of a GRU: bias_n, which starts at 0
            value.detach().zero_()
            continue
        learner.parameters[name][...] = value.detach().numpy()
    return core, learner


def test_the_core_is_the_learners_model(core_and_learner, rng):
    core, learner = core_and_learner
    x, resets = rng.standard_normal((T, B, INPUTS)), rng.random((T, B)) < 0.2
    outputs, _ = core(torch.tensor(x), None, torch.tensor(resets))
    weight, bias = (learner.parameters[f"head.0.{name}"] for name in ("weight", "bias"))
    targets = outputs.detach().numpy() @ weight.T + bias
    batch = Batch(x, targets, resets)
    assert learner.evaluate([batch])["loss"] < 1e-28
    gates = core.forget_gates(torch.tensor(x), None, torch.tensor(resets))
    for side, expected in zip(gates, learner.gates(batch), strict=True):
        np.testing.assert_allclose(side, expected, rtol=0, atol=1e-12)


def test_its_state_continues_a_sequence(core_and_learner):
    core, x = core_and_learner[0], torch.randn(T, B, INPUTS).double()
    whole, last = core(x)
    first, state = core(x[:3])
    rest, end = core(x[3:], state)
    torch.testing.assert_close(torch.cat([first, rest]), whole, rtol=0, atol=1e-12)
    parts, ends = ((s,) if isinstance(s, torch.Tensor) else s for s in (last, end))
    for part, other in zip(parts, ends, strict=True):
        assert part.shape == (3, B, H)
        torch.testing.assert_close(part, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("core", ["lstm", "mingru"])
@pytest.mark.parametrize("unroll", [None, 4])
def test_an_agent_resumes_bit_for_bit(core, unroll):
    settings = {"core": core, "unroll": unroll, **BLOCKS}
    whole, first, second = (agent(**settings) for _ in range(3))
    losses = [whole.step(episodes(k), learning_rate=0.01)["loss"] for k in range(4)]
    for k in range(2):
        first.step(episodes(k), learning_rate=0.01)
    second.load_state_dict(first.state_dict())
    assert [second.step(episodes(k), learning_rate=0.01)["loss"] for k in (2, 3)] == losses[2:]
    assert whole.gates(episodes(9)).value.shape == (3, H)
    before = agent(**settings).network
    for name, value in whole.network.core.named_parameters():
        assert (value != before.core.get_parameter(name)).any(), name


def test_layers_without_blocks_keep_the_names_of_earlier_states():
    core = recurrent_core(Core(core="mingru", hidden_size=H), INPUTS)
    assert type(core) is Layers
    assert {"layer.weight_ih_l0", "layer.bias_ih_l0"} == {n for n, _ in core.named_parameters()}
