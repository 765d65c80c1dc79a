"""With mechanism "standard" the layers are torch's own: outputs, gradients, states, shapes."""

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


def twins(core, **keywords):
    """Our layer and torch's with equal weights, float64."""
    ours, theirs = (kind(3, 4, dtype=torch.float64, **keywords) for kind in PAIRS[core])
    return ours, theirs


def tensors(result):
    """The tensors of what a layer returned, in order."""
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


def agree(ours, theirs, x, state=None):
    """Outputs and all gradients of the two, to 1e-12."""
    results = [tensors(layer(x, state)) for layer in (ours, theirs)]
    weights = [torch.randn_like(t) for t in results[0]]
    for mine, its in zip(*results, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-12)
    for result in results:
        sum((t * w).sum() for t, w in zip(result, weights, strict=True)).backward()
    for (name, mine), (its_name, its) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == its_name
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-12, atol=1e-12)


MATRIX = [
    (core, layers, both_ways, projection, batch_first, kind)
    for core, layers, both_ways, projection, batch_first, kind in itertools.product(
        PAIRS, (1, 2), (False, True), (0, 2), (False, True), KINDS
    )
    if not (core == "gru" and projection)
]


@pytest.mark.parametrize(
    ("core", "layers", "both_ways", "projection", "batch_first", "kind"), MATRIX
)
def test_standard_is_torchs_layer(core, layers, both_ways, projection, batch_first, kind):
    keywords = {"num_layers": layers, "bidirectional": both_ways, "batch_first": batch_first}
    keywords |= {"proj_size": projection} if projection else {}
    ours = PAIRS[core][0](3, 4, mechanism="standard", dtype=torch.float64, **keywords)
    theirs = PAIRS[core][1](3, 4, dtype=torch.float64, **keywords)
    ours.load_state_dict(theirs.state_dict())
    agree(ours, theirs, sequence(kind, batch_first))
    assert ours.last_impl == ("plain" if projection else "reference")


@pytest.mark.parametrize("kind", ["batched", "packed"])
@pytest.mark.parametrize("core", PAIRS)
def test_with_a_state_and_its_gradient(core, kind):
    ours = PAIRS[core][0](3, 4, 2, bidirectional=True, mechanism="standard", dtype=torch.float64)
    theirs = PAIRS[core][1](3, 4, 2, bidirectional=True, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    found, x = [], sequence(kind, batch_first=False)
    start = [torch.randn(4, 3, 4, dtype=torch.float64) for _ in range(2)]
    for layer in (ours, theirs):
        h, c = (s.clone().requires_grad_() for s in start)
        result = tensors(layer(x, (h, c) if core == "lstm" else h))
        sum((t * t).sum() for t in result).backward()
        found.append([*result, h.grad, *([c.grad] if core == "lstm" else [])])
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("ours", "theirs"), [(LSTMCell, nn.LSTMCell), (GRUCell, nn.GRUCell)])
def test_standard_is_torchs_cell(ours, theirs, bias, batched):
    mine = ours(3, 4, bias, mechanism="standard", dtype=torch.float64)
    its = theirs(3, 4, bias, dtype=torch.float64)
    mine.load_state_dict(its.state_dict())
    x = torch.randn(*([2] if batched else []), 3, dtype=torch.float64)
    agree(mine, its, x)


def test_the_parameters_are_torchs_in_its_order():
    ours = LSTM(3, 4, 2, bidirectional=True, proj_size=2, mechanism="standard")
    theirs = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [
        (n, p.shape) for n, p in theirs.named_parameters()
    ]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [len(weights) for weights in ours.all_weights] == [5] * 4
    ours.flatten_parameters()
    assert not isinstance(ours, nn.RNNBase)


def test_dropout_between_layers_only_while_training():
    layer = LSTM(3, 16, 2, dropout=0.5)
    x = torch.randn(6, 2, 3)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        LSTM(3, 4, dropout=0.5)
