"""With mechanism "standard" layers equal torch's: outputs, gradients, states, parameters."""

import itertools

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

from gatecore.backends.torch import GRU, LSTM, GRUCell, LSTMCell  # noqa: E402

PAIRS = {"lstm": (LSTM, nn.LSTM), "gru": (GRU, nn.GRU)}
KINDS = ("batched", "unbatched", "packed", "empty batch")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(5)


def tensors(result):
    """The tensors of a layer's result, in order."""
    if isinstance(result, nn.utils.rnn.PackedSequence):
        return [result.data]
    if isinstance(result, tuple):
        return [t for part in result for t in tensors(part)]
    return [result]


def sequence(kind, batch_first):
    if kind == "unbatched":
        return torch.randn(5, 3, dtype=torch.float64)
    batch = 0 if kind == "empty batch" else 3
    x = torch.randn(*((batch, 5) if batch_first else (5, batch)), 3, dtype=torch.float64)
    if kind == "packed":
        return pack_padded_sequence(x, [2, 5, 3], batch_first=batch_first, enforce_sorted=False)
    return x


def assert_equal(layer, reference, x, state=None):
    """Outputs and all gradients of the two, to 1e-12."""
    results = [tensors(module(x, state)) for module in (layer, reference)]
    weights = [torch.randn_like(t) for t in results[0]]
    for pair in zip(*results, strict=True):
        torch.testing.assert_close(*pair, rtol=0, atol=1e-12)
    for result in results:
        sum((t * w).sum() for t, w in zip(result, weights, strict=True)).backward()
    expected = dict(reference.named_parameters())
    assert list(dict(layer.named_parameters())) == list(expected)
    for name, value in layer.named_parameters():
        torch.testing.assert_close(value.grad, expected[name].grad, rtol=1e-12, atol=1e-12)


MATRIX = [
    (core, layers, bidirectional, projection, batch_first, kind)
    for core, layers, bidirectional, projection, batch_first, kind in itertools.product(
        PAIRS, (1, 2), (False, True), (0, 2), (False, True), KINDS
    )
    if not (core == "gru" and projection)
]


@pytest.mark.parametrize(
    ("core", "layers", "bidirectional", "projection", "batch_first", "kind"), MATRIX
)
def test_standard_is_the_layer_of_torch(core, layers, bidirectional, projection, batch_first, kind):
    keywords = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
    keywords |= {"proj_size": projection} if projection else {}
    layer = PAIRS[core][0](3, 4, mechanism="standard", dtype=torch.float64, **keywords)
    reference = PAIRS[core][1](3, 4, dtype=torch.float64, **keywords)
    layer.load_state_dict(reference.state_dict())
    assert_equal(layer, reference, sequence(kind, batch_first))
    assert layer.last_impl == ("plain" if projection else "reference")


@pytest.mark.parametrize("kind", ["batched", "packed"])
@pytest.mark.parametrize("core", PAIRS)
def test_an_initial_state_and_its_gradient(core, kind):
    layer = PAIRS[core][0](3, 4, 2, bidirectional=True, mechanism="standard", dtype=torch.float64)
    reference = PAIRS[core][1](3, 4, 2, bidirectional=True, dtype=torch.float64)
    layer.load_state_dict(reference.state_dict())
    results, x = [], sequence(kind, batch_first=False)
    start = [torch.randn(4, 3, 4, dtype=torch.float64) for _ in range(2)]
    for module in (layer, reference):
        h, c = (s.clone().requires_grad_() for s in start)
        outputs = tensors(module(x, (h, c) if core == "lstm" else h))
        sum((t * t).sum() for t in outputs).backward()
        results.append([*outputs, h.grad, *([c.grad] if core == "lstm" else [])])
    for pair in zip(*results, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [LSTMCell, GRUCell])
def test_standard_is_the_cell_of_torch(kind, bias, batched):
    cell = kind(3, 4, bias, mechanism="standard", dtype=torch.float64)
    reference = getattr(nn, kind.__name__)(3, 4, bias, dtype=torch.float64)
    cell.load_state_dict(reference.state_dict())
    x = torch.randn(*([2] if batched else []), 3, dtype=torch.float64)
    assert_equal(cell, reference, x)


def test_parameters_have_the_names_shapes_and_order_of_torch():
    layer = LSTM(3, 4, 2, bidirectional=True, proj_size=2, mechanism="standard")
    reference = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    assert [(n, p.shape) for n, p in layer.named_parameters()] == [
        (n, p.shape) for n, p in reference.named_parameters()
    ]
    assert list(layer.state_dict()) == list(reference.state_dict())
    assert [len(weights) for weights in layer.all_weights] == [5] * 4
    layer.flatten_parameters()
    assert not isinstance(layer, nn.RNNBase)


def test_dropout_acts_between_layers_in_training_only():
    layer = LSTM(3, 16, 2, dropout=0.5)
    x = torch.randn(6, 2, 3)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        LSTM(3, 4, dropout=0.5)
