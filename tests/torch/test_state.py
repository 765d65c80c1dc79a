"""A state_dict records its mechanism; layers refuse that of a mechanism with other equations."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from gatecore import Mechanism, mechanism  # noqa: E402
from gatecore.backends.torch import (  # noqa: E402
    GRU,
    LSTM,
    GateUnit,
    GRUCell,
    LSTMCell,
    Minimal,
    convert,
)

KINDS = [LSTM, GRU, Minimal, LSTMCell, GRUCell]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["standard", "UR", "OM"])
def test_a_state_dict_loads_into_an_equal_layer(kind, name):
    source, target = kind(3, 4, mechanism=name), kind(3, 4, mechanism=name)
    target.load_state_dict(source.state_dict())
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(a, b)
    assert source.state_dict()._metadata[""] == {"version": 1, "mechanism": name}


@pytest.mark.parametrize("kind", KINDS)
def test_torch_compatible_mechanisms_interchange_with_each_other_and_with_torch(kind):
    for name in ("standard", "U", "C"):
        state = kind(3, 4, mechanism="U").state_dict()
        kind(3, 4, mechanism=name).load_state_dict(state)
        if counterpart := getattr(nn, kind.__name__, None):
            counterpart(3, 4).load_state_dict(state)
            kind(3, 4, mechanism=name).load_state_dict(counterpart(3, 4).state_dict())


def test_mechanisms_that_differ_in_initial_biases_alone_interchange():
    LSTM(3, 4, mechanism="R").load_state_dict(LSTM(3, 4, mechanism="UR").state_dict())


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [("UR", "standard"), ("UR", "OR"), ("OM", mechanism("OM", downsize=2)), ("UM", "OM")],
)
def test_another_mechanism_is_refused_with_what_to_do(saved, loaded):
    state = nn.ModuleDict({"rnn": LSTM(3, 4, mechanism=saved)}).state_dict()
    model = nn.ModuleDict({"rnn": LSTM(3, 4, mechanism=loaded)})
    with pytest.raises(RuntimeError, match=f"rnn: the state_dict is of mechanism '{saved}'.*make"):
        model.load_state_dict(state)
    with pytest.raises(RuntimeError, match="is of mechanism"):
        model.load_state_dict(state, strict=False)


@pytest.mark.parametrize("kind", [LSTM, GRU, LSTMCell, GRUCell])
def test_the_state_dict_of_a_layer_of_torch_is_refused_with_what_to_do(kind):
    other = getattr(nn, kind.__name__)(3, 4)
    advice = r"records no mechanism.*use convert\(module, mechanism='UR', keep_weights=True\)"
    with pytest.raises(RuntimeError, match=advice):
        kind(3, 4, mechanism="UR").load_state_dict(other.state_dict())
    convert(other, keep_weights=True)


@pytest.mark.parametrize("kind", [Minimal, lambda *sizes: GateUnit(8)])
def test_a_state_dict_without_a_record_is_refused_where_torch_has_no_such_layer(kind):
    state = kind(3, 4).state_dict()
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match=r"records no mechanism.*load one that"):
        kind(3, 4).load_state_dict(state)


def test_a_later_version_and_an_unreadable_entry_are_refused():
    layer = LSTM(3, 4, mechanism="UR")
    for record, message in [
        (b'{"version": 99, "computation": "x"}', "update gatecore"),
        (b"{}", "records no mechanism"),
        (b"\x01\x02", "can't be read"),
    ]:
        state = layer.state_dict()
        state["_extra_state"] = torch.tensor(list(record), dtype=torch.uint8)
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(state)


def test_a_partial_state_dict_needs_no_entry():
    model = nn.ModuleDict({"rnn": LSTM(3, 4), "head": nn.Linear(4, 2)})
    keys = model.load_state_dict(model["head"].state_dict(prefix="head."), strict=False)
    assert {key.split(".")[0] for key in keys.missing_keys} == {"rnn"}


def test_the_entry_is_a_tensor_with_all_fields_of_the_mechanism():
    downsized = mechanism("UM", downsize=2)
    entry = LSTM(3, 4, mechanism=downsized).state_dict()["_extra_state"]
    assert entry.dtype == torch.uint8
    import json

    assert Mechanism(**json.loads(bytes(entry.tolist()))["mechanism"]) == downsized


@pytest.mark.parametrize("kind", [*KINDS, lambda *sizes: GateUnit(sizes[1])])
def test_copies_and_pickles_are_equal(kind):
    layer, stream = kind(3, 4), io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    copies = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),  # noqa: S301  bytes of this test
        torch.load(stream, weights_only=False),
    ]
    for copied in copies:
        assert repr(copied) == repr(layer)
        for a, b in zip(layer.parameters(), copied.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a.requires_grad == b.requires_grad


def test_the_seed_of_torch_determines_the_initial_parameters():
    layers = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        layers.append(LSTM(3, 32))
    first, second, third = (layer.bias_ih_l0 for layer in layers)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    forget, refine = first[32:64], first[:32]
    assert torch.equal(refine, -forget)
    assert forget.abs().max() <= torch.tensor(31.0).log() + 1e-6
    assert not layers[0].bias_hh_l0.any()


def test_one_bias_is_trained_by_default_except_in_torch_compatible_layers():
    assert not LSTM(3, 4).bias_hh_l0.requires_grad
    assert LSTM(3, 4, two_biases=True).bias_hh_l0.requires_grad
    assert LSTM(3, 4, mechanism="standard").bias_hh_l0.requires_grad
    gru = GRU(3, 4)
    gru(torch.randn(5, 2, 3))[0].sum().backward()
    assert not gru.bias_hh_l0.grad[:8].any()
    assert gru.bias_hh_l0.grad[8:12].all()


@pytest.mark.parametrize("kind", KINDS)
def test_meta_device_and_skip_init(kind):
    layer = nn.utils.skip_init(kind, 3, 4)
    assert not any(p.is_meta for p in layer.parameters())
    layer.reset_parameters()
    meta = kind(3, 4, device="meta")
    shape = (2, 3) if kind in (LSTMCell, GRUCell) else (5, 2, 3)
    result = meta(torch.randn(shape, device="meta"))
    assert (result[0] if isinstance(result, tuple) else result).is_meta
    meta.to_empty(device="cpu").reset_parameters()
    assert all(p.isfinite().all() for p in meta.parameters())
