"""Models with torch's layers are converted in place, and train."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from gatecore.backends.torch import (  # noqa: E402
    GRU,
    LSTM,
    GRUCell,
    LSTMCell,
    convert,
)


class WordModel(nn.Module):
    """The shape of the word language model among torch's examples."""

    def __init__(self, kind, tokens=20, width=16, layers=2):
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.encoder = nn.Embedding(tokens, width)
        self.rnn = getattr(nn, kind)(width, width, layers, dropout=0.1)
        self.decoder = nn.Linear(width, tokens)
        self.kind, self.width, self.layers = kind, width, layers

    def forward(self, input, hidden):
        output, hidden = self.rnn(self.drop(self.encoder(input)), hidden)
        return self.decoder(self.drop(output)), hidden

    def init_hidden(self, batch):
        weight = next(self.parameters())
        zeros = weight.new_zeros(self.layers, batch, self.width)
        return (zeros, zeros) if self.kind == "LSTM" else zeros


def detached(hidden):
    return hidden.detach() if torch.is_tensor(hidden) else tuple(map(detached, hidden))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_word_language_model_trains_after_conversion(kind):
    torch.manual_seed(1)
    model = convert(WordModel(kind), mechanism="UR")
    assert type(model.rnn) is {"LSTM": LSTM, "GRU": GRU}[kind]
    tokens = torch.arange(20).repeat(4)[:65].unsqueeze(1).expand(-1, 4)
    hidden, losses = model.init_hidden(4), []
    for _ in range(60):
        hidden = detached(hidden)
        output, hidden = model(tokens[:-1], hidden)
        loss = functional.cross_entropy(output.flatten(0, 1), tokens[1:].flatten())
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        with torch.no_grad():  # as the example does it: every parameter has a gradient
            for p in model.parameters():
                p.add_(p.grad, alpha=-5.0)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


class Agent(nn.Module):
    """A recurrent agent that steps through a rollout and resets its state between episodes."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, 16), nn.ReLU())
        self.lstm = nn.LSTM(16, 16)
        for name, param in self.lstm.named_parameters():
            if "bias" in name:
                nn.init.constant_(param, 0)
            else:
                nn.init.orthogonal_(param, 1.0)
        self.actor, self.critic = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, x, state, done):
        hidden, outputs = self.network(x), []
        for h, d in zip(hidden, done, strict=True):
            mask = (1.0 - d).view(1, -1, 1)
            h, state = self.lstm(h.unsqueeze(0), (mask * state[0], mask * state[1]))
            outputs.append(h)
        features = torch.cat(outputs)
        return self.actor(features), self.critic(features), state


def test_a_recurrent_agent_trains_after_conversion():
    torch.manual_seed(2)
    agent = convert(Agent(), mechanism="UR")
    x, done = torch.randn(8, 6, 4), (torch.rand(8, 6) < 0.2).float()
    target, state = x.cumsum(0).sum(-1), (torch.zeros(1, 6, 16), torch.zeros(1, 6, 16))
    optimizer, losses = torch.optim.Adam(agent.parameters(), 1e-2), []
    for _ in range(60):
        logits, value, _ = agent(x, state, done)
        loss = (value.squeeze(-1) - target).pow(2).mean() - 0.01 * logits.log_softmax(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_every_recurrent_layer_is_replaced_once_wherever_it_is():
    shared = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    model = nn.ModuleDict(
        {"a": shared, "b": nn.Sequential(nn.GRUCell(3, 4), nn.LSTMCell(3, 4, bias=False))}
    )
    model["again"], model["b"][0].training = shared, False
    assert convert(model) is model
    assert model["a"] is model["again"]
    assert [type(m) for m in (model["a"], *model["b"])] == [LSTM, GRUCell, LSTMCell]
    assert model["a"].batch_first
    assert model["a"].bidirectional
    assert model["b"][1].bias is False
    assert not model["b"][0].training


def test_a_single_layer_is_replaced_by_the_result():
    converted = convert(nn.GRU(3, 4, 2, dtype=torch.float64), mechanism="OM")
    assert type(converted) is GRU
    assert converted.weight_ih_l0.dtype == torch.float64


def test_a_subclass_is_refused_by_name():
    layer = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0"))
    with pytest.raises(TypeError, match="0 is a ParametrizedLSTM"):
        convert(layer)


@pytest.mark.parametrize("name", ["standard", "U", "C"])
def test_copied_weights_give_the_same_outputs_in_torch_compatible_layers(name):
    layer = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2, dtype=torch.float64)
    converted, x = LSTM.from_lstm(layer, name), torch.randn(5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(converted(x)[0], layer(x)[0], rtol=1e-5, atol=1e-6)
    assert converted.initialised == ()


@pytest.mark.parametrize(
    ("name", "initialised"),
    [
        ("UR", ("refine",)),
        ("OM", ("master_forget", "master_input")),
        ("O", ("input", "forget")),
        ("OR", ("refine", "forget")),
    ],
)
def test_from_lstm_copies_shared_slots_and_names_the_others(name, initialised):
    layer = nn.LSTM(3, 4)
    converted = LSTM.from_lstm(layer, mechanism=name)
    assert converted.initialised == initialised
    assert torch.equal(converted.weight_hh_l0[8:16], layer.weight_hh_l0[8:16])
    if name == "UR":
        forget = layer.bias_ih_l0[4:8] + layer.bias_hh_l0[4:8]
        torch.testing.assert_close(converted.bias_ih_l0[:4], -forget)


def test_from_gru():
    layer, x = nn.GRU(3, 4, bidirectional=True), torch.randn(5, 2, 3)
    torch.testing.assert_close(GRU.from_gru(layer, "standard")(x)[0], layer(x)[0])
    assert GRU.from_gru(layer, "UR").initialised == ("refine",)
