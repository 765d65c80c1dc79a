"""Models with torch's layers are converted in place, and train."""

import abc
import copy
import logging
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

import gatecore  # noqa: E402
from gatecore.backends.torch import GRU, LSTM, GRUCell, LSTMCell, convert  # noqa: E402


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


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (parametrizations.weight_norm, "ParametrizedLSTM"),
        (nn.utils.weight_norm, "LSTM"),
        (nn.utils.spectral_norm, "LSTM"),
        (lambda module, weight: prune.l1_unstructured(module, weight, 0.5), "LSTM"),
    ],
)
def test_reparametrized_and_pruned_layers_are_refused_by_name(change, name):
    model = nn.Sequential(nn.GRU(3, 3), change(nn.LSTM(3, 4), "weight_hh_l0"))
    with pytest.raises(TypeError, match=f"1 is a {name} whose weight_hh_l0 is reparametrized"):
        convert(model)
    assert type(model[0]) is nn.GRU


class Doubled(nn.LSTM):
    def forward(self, x, hx=None):
        return super().forward(2 * x, hx)


class Stateless(nn.LSTM):
    def forward(self, x, hx=None):
        return super().forward(x)


class LastOutput(nn.LSTM):
    def forward(self, x, hx=None):
        return super().forward(x, hx)[0][-1]


class ByItself(nn.LSTM):
    def forward(self, x, hx=None):
        hx = hx or (x.new_zeros(1, x.shape[1], 4),) * 2
        weights = self._flat_weights
        output, *state = torch._VF.lstm(x, hx, weights, True, 1, 0.0, False, False, False)
        return output, tuple(state)


def test_a_forward_that_is_not_torchs_is_refused_by_name():
    wrapped = nn.LSTM(3, 4)
    wrapped.forward = Doubled(3, 4).forward
    classes = (Doubled, Stateless, LastOutput, ByItself)
    for layer, name in (*((c(3, 4), c.__name__) for c in classes), (wrapped, "LSTM")):
        with pytest.raises(TypeError, match=f"0 is a {name} with a forward that is not torch's"):
            convert(nn.Sequential(layer))


class Encoder(abc.ABC, nn.RNNBase):
    @abc.abstractmethod
    def initial(self, x): ...

    def encode(self, x):
        return self(x, self.initial(x))


class LSTMEncoder(Encoder, nn.LSTM):
    def __init__(self, *sizes, scale):
        super().__init__(*sizes)
        self.scale, self.norm = scale, nn.LayerNorm(4)

    def initial(self, x):
        zeros = x.new_zeros(self.num_layers, x.shape[1], self.hidden_size)
        return (zeros, zeros)

    def encode(self, x):
        output, _ = super().encode(x)
        return self.scale * self.norm(output)


def test_a_subclass_with_the_forward_of_torch_keeps_its_methods():
    model, x = nn.Sequential(LSTMEncoder(3, 4, scale=2.0)), torch.randn(5, 2, 3)
    expected = model[0].encode(x)
    convert(model, "standard")
    layer = model[0]
    assert isinstance(layer, LSTM)
    assert type(layer).__name__ == "LSTMEncoder"
    for copied in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
        torch.testing.assert_close(copied.encode(x), expected)
        assert type(copied) is type(layer)


class PaddedGRU(nn.GRU):
    """Also takes the lengths of padded sequences, as the layers of pytorch-forecasting do."""

    def forward(self, x, hx=None, lengths=None):
        if lengths is None:
            return super().forward(x, hx=hx)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, h = super().forward(packed, hx=hx)
        return nn.utils.rnn.pad_packed_sequence(output)[0], h


def test_a_forward_that_hands_over_to_torchs_is_kept():
    model, x = nn.Sequential(PaddedGRU(3, 4)), torch.randn(5, 2, 3)
    expected = model[0](x, lengths=torch.tensor([2, 5]))
    convert(model, "standard")
    assert isinstance(model[0], GRU)
    torch.testing.assert_close(model[0](x, lengths=torch.tensor([2, 5])), expected)


@pytest.mark.parametrize("name", ["standard", "UR", "OM"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell])
def test_parameters_of_equal_shape_stay_the_same_objects(kind, name, caplog):
    model, x = nn.Sequential(kind(3, 4, dtype=torch.float64)), torch.randn(2, 3).double()
    reference = copy.deepcopy(model)
    before = dict(model[0].named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    convert(model, name)
    for key, value in model[0].named_parameters():
        assert (value is before[key]) == (value.shape == before[key].shape)
    changed = any(p is not q for p, q in zip(before.values(), model[0].parameters(), strict=True))
    assert changed == ("parameters are new" in caplog.text)
    if name == "standard":
        torch.testing.assert_close(model(x), reference(x), rtol=0, atol=1e-12)
    if not changed:
        weight = next(model.parameters())
        copied = weight.detach().clone()
        model(x)[0].square().sum().backward()
        optimizer.step()
        assert not torch.equal(weight, copied)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_an_optimizer_gets_the_new_parameters(kind, caplog):
    model = nn.ModuleList([kind(3, 4), nn.Linear(4, 2)])
    optimizer = torch.optim.Adam(model.parameters())
    model[1](model[0](torch.randn(5, 2, 3))[0]).sum().backward()
    optimizer.step()
    convert(model, "OM", optimizer=optimizer)
    assert {*optimizer.param_groups[0]["params"]} == {*model.parameters()}
    assert {*optimizer.state} <= {*model.parameters()}
    assert "parameters are new" not in caplog.text
    model[1](model[0](torch.randn(5, 2, 3))[0]).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["UR", "OM"])
def test_tied_weights_stay_tied(name):
    model = nn.ModuleList([nn.LSTM(4, 4), nn.LSTM(4, 4)])
    model[1].weight_ih_l0 = model[0].weight_ih_l0
    convert(model, name)
    assert model[0].weight_ih_l0 is model[1].weight_ih_l0
    assert model[0].weight_hh_l0 is not model[1].weight_hh_l0


def test_hooks_go_on_and_are_removed_by_their_handles():
    model, calls = nn.Sequential(nn.LSTM(3, 4)), []

    def note(module, *rest):
        calls.append(type(module))

    handles = [
        model[0].register_forward_pre_hook(note),
        model[0].register_forward_hook(note),
        model[0].register_full_backward_hook(note),
        model[0].register_load_state_dict_pre_hook(note),
    ]
    state = convert(model, "standard").state_dict()
    x = torch.randn(5, 2, 3, requires_grad=True)
    model(x)[0].sum().backward()
    model.load_state_dict(state)
    assert calls == [LSTM] * 4
    for handle in handles:
        handle.remove()
    model(x)[0].sum().backward()
    assert len(calls) == 4


@pytest.mark.parametrize("name", ["standard", "UR", "OM"])
def test_frozen_parameters_stay_frozen(name):
    layer = nn.GRU(3, 4, 2).double().eval()
    layer.weight_hh_l0.requires_grad_(False)
    layer.bias_ih_l1.requires_grad_(False)
    made = GRU.from_gru(layer, name)
    converted = convert(nn.Sequential(layer), name)[0]
    for new in (made, converted):
        frozen = {key for key, value in new.named_parameters() if not value.requires_grad}
        assert frozen == {"weight_hh_l0", "bias_ih_l1"}
        assert not new.training
        assert new.weight_ih_l0.dtype == torch.float64


def test_from_lstm_adds_the_biases_of_a_layer_with_one():
    layer, x = nn.LSTM(3, 4, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    single = LSTM.from_lstm(layer, "standard", two_biases=False)
    assert not single.bias_hh_l0.any()
    torch.testing.assert_close(single(x)[0], layer(x)[0])


def test_aliases_of_a_layer_are_replaced_everywhere():
    model = nn.Module()
    model.rnn = nn.LSTM(3, 4)
    model.layers, model.pair = [model.rnn], ({"first": model.rnn}, model.rnn)
    model.__dict__["alias"] = model.rnn
    model.layers.append(model.layers)  # a cycle
    convert(model)
    assert type(model.rnn) is LSTM
    aliases = [model.layers[0], model.pair[0]["first"], model.pair[1], model.alias]
    assert all(alias is model.rnn for alias in aliases)


def test_replacements_are_logged(caplog):
    with caplog.at_level(logging.INFO):
        convert(nn.ModuleDict({"rnn": nn.LSTM(3, 4)}))
    assert "rnn: LSTM(3, 4) replaced by LSTM(3, 4, mechanism='UR')" in caplog.text


def test_a_model_without_layers_to_replace_is_a_warning_with_its_recurrent_modules():
    model = nn.ModuleDict({"simple": nn.RNN(3, 4), "done": GRU(3, 4), "head": nn.Linear(4, 2)})
    with pytest.warns(UserWarning, match=r"replaced nothing.*simple \(.*RNN\), done \(.*GRU\)$"):
        convert(model)
    with pytest.warns(UserWarning, match="replaced nothing.*of torch$"):
        convert(nn.Linear(2, 2))


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
        (gatecore.mechanism("UR", tied=False), ("refine", "refine_input")),
    ],
)
def test_from_lstm_copies_shared_slots_and_names_the_others(name, initialised):
    layer = nn.LSTM(3, 4)
    converted = LSTM.from_lstm(layer, mechanism=name)
    assert converted.initialised == initialised
    assert torch.equal(converted.weight_hh_l0[8:16], layer.weight_hh_l0[8:16])


def test_from_lstm_opposes_the_refine_gates_to_the_forget_gates():
    layer = nn.LSTM(3, 4)
    converted = LSTM.from_lstm(layer, mechanism=gatecore.mechanism("UR", refine_bias="opposed"))
    forget = layer.bias_ih_l0[4:8] + layer.bias_hh_l0[4:8]
    torch.testing.assert_close(converted.bias_ih_l0[:4], -forget)


def test_from_lstm_opposes_both_refine_gates_of_untied_gates():
    layer = nn.LSTM(3, 4)
    mechanism = gatecore.mechanism("UR", refine_bias="opposed", tied=False)
    bias = LSTM.from_lstm(layer, mechanism=mechanism).bias_ih_l0
    gates = layer.bias_ih_l0 + layer.bias_hh_l0
    torch.testing.assert_close(bias[16:], -gates[[4, 5, 6, 7, 0, 1, 2, 3]])


def test_from_gru():
    layer, x = nn.GRU(3, 4, bidirectional=True), torch.randn(5, 2, 3)
    torch.testing.assert_close(GRU.from_gru(layer, "standard")(x)[0], layer(x)[0])
    assert GRU.from_gru(layer, "UR").initialised == ("refine",)
    untied = GRU.from_gru(layer, gatecore.mechanism("UR", tied=False))
    assert untied.initialised == ("input", "refine", "refine_input")
