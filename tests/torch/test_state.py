"""A state_dict records its mechanism; layers refuse that of a mechanism with other equations."""

import copy
import io
import json
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from gatecore import MECHANISMS, mechanism  # noqa: E402
from gatecore.backends.torch import (  # noqa: E402
    GRU,
    LSTM,
    GateUnit,
    GRUCell,
    LSTMCell,
    MinGRU,
    Minimal,
    RelationalMemory,
    convert,
)

KINDS = [LSTM, GRU, Minimal, LSTMCell, GRUCell]
CELLS = (LSTMCell, GRUCell)


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


@pytest.mark.parametrize("kind", [Minimal, MinGRU, lambda *sizes: GateUnit(8)])
def test_a_state_dict_without_a_record_is_refused_where_torch_has_no_such_layer(kind):
    state = kind(3, 4).state_dict()
    del state["mechanism_code"]
    with pytest.raises(RuntimeError, match=r"records no mechanism.*load one that"):
        kind(3, 4).load_state_dict(state)


def earlier(layer, record=None):
    """The state_dict as earlier versions saved it, with the mechanism in bytes."""
    state = layer.state_dict()
    state.pop("mechanism_code", None)
    if record is None:
        computation = "lstm sigmoid refine 1"
        fields = {"version": 1, "computation": computation, "mechanism": {"name": "UR"}}
        record = json.dumps(fields).encode()
    state["_extra_state"] = torch.tensor(list(record), dtype=torch.uint8)
    return state


def test_a_state_dict_of_earlier_versions_loads_and_is_checked():
    source, target = LSTM(3, 4, mechanism="UR"), LSTM(3, 4, mechanism="UR")
    target.load_state_dict(earlier(source))
    assert torch.equal(target.weight_hh_l0, source.weight_hh_l0)
    meta = LSTM(3, 4, mechanism="UR", device="meta")
    meta.load_state_dict(earlier(source), assign=True)
    assert torch.equal(meta.mechanism_code, source.mechanism_code)
    for name in ("standard", "OR", "OM"):
        state = earlier(source)
        with pytest.raises(RuntimeError, match="is of mechanism 'UR'"):
            LSTM(3, 4, mechanism=name).load_state_dict(state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_tells_untied_gates_from_tied_ones(kind):
    tied, untied = (
        lambda value=value: kind(3, 4, mechanism=mechanism("UR", tied=value))
        for value in (True, False)
    )
    source, target = untied(), untied()
    target.load_state_dict(source.state_dict())
    assert all(map(torch.equal, target.state_dict().values(), source.state_dict().values()))
    marker = untied().state_dict()["mechanism_code"]
    advice = r"mechanism\('UR', tied=False\) \(\w+ sigmoid untied 1\)"
    with pytest.raises(RuntimeError, match=advice):
        tied().load_state_dict(tied().state_dict() | {"mechanism_code": marker})
    with pytest.raises(RuntimeError, match=r"is of mechanism 'UR' \(\w+ sigmoid refine 1\)"):
        untied().load_state_dict(tied().state_dict())


def test_a_later_version_and_an_unreadable_entry_are_refused():
    layer = LSTM(3, 4, mechanism="UR")
    for record, message in [
        (b'{"version": 99, "computation": "x"}', "update gatecore"),
        (b"{}", "records no mechanism"),
        (b"\x01\x02", "can't be read"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(earlier(layer, record))
    for change, message in [(0.5, "not integers"), (float("nan"), "not integers"), (9, "update")]:
        state = layer.state_dict()
        state["mechanism_code"] = state["mechanism_code"] + change
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(state)


def test_a_partial_state_dict_needs_no_entry():
    model = nn.ModuleDict({"rnn": LSTM(3, 4), "head": nn.Linear(4, 2)})
    keys = model.load_state_dict(model["head"].state_dict(prefix="head."), strict=False)
    assert {key.split(".")[0] for key in keys.missing_keys} == {"rnn"}


CODED = [
    *(
        lambda k=k, name=name: k(3, 8, mechanism=name)
        for k in (*KINDS, MinGRU)
        for name in MECHANISMS
    ),
    lambda: LSTM(3, 8, mechanism=mechanism("UM", downsize=4)),
    lambda: LSTM(1, 300, mechanism=mechanism("OM", downsize=300)),
    lambda: GateUnit(8),
    lambda: RelationalMemory(3, slots=2, head_size=4),
]


@pytest.mark.parametrize("make", CODED)
def test_averages_and_casts_of_all_entries_load(make):
    states = [make().state_dict() for _ in range(3)]
    in_place = copy.deepcopy(states[0])
    for name, value in in_place.items():
        value *= 1 / 3
        for other in states[1:]:
            value += other[name] * (1 / 3)
    stacked = {name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}
    moving = {name: value.clone() for name, value in states[0].items()}
    for _ in range(100):
        moving = {name: 0.9 * value + 0.1 * states[1][name] for name, value in moving.items()}
    for average in (in_place, stacked, moving):
        model = make()
        model.load_state_dict(average)
        for name, value in model.named_parameters():
            torch.testing.assert_close(value.data, average[name])
        assert torch.equal(*(m.state_dict().get("mechanism_code", value) for m in (model, make())))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        cast = {name: value.to(dtype) for name, value in states[0].items()}
        make().load_state_dict(cast)
        thirds = {name: value / 3 + value / 3 + value / 3 for name, value in cast.items()}
        make().to(dtype).load_state_dict(thirds)


def test_a_state_dict_is_a_value_of_functional_call_and_of_stacked_models():
    layers, x = [LSTM(3, 4), LSTM(3, 4)], torch.randn(5, 2, 3)
    output, _ = torch.func.functional_call(layers[0], layers[1].state_dict(), (x,))
    assert torch.equal(output, layers[1](x)[0])
    stacked = torch.func.stack_module_state(layers)
    each = torch.vmap(lambda *s: torch.func.functional_call(layers[0], s, (x,))[0])(*stacked)
    torch.testing.assert_close(each[1], layers[1](x)[0])


def test_states_survive_safetensors_and_averaged_models(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    model = nn.ModuleDict({"a": LSTM(3, 4, 2), "b": GRUCell(4, 4), "c": GateUnit(4, "OM")})
    safetensors.save_model(model, tmp_path / "model.safetensors")
    safetensors.load_model(copy.deepcopy(model), tmp_path / "model.safetensors")
    for function in (None, torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)):
        averaged = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=function, use_buffers=True
        )
        for _ in range(5):
            averaged.update_parameters(model)
        model.load_state_dict(averaged.module.state_dict())


def test_layers_on_the_meta_device_are_loaded_tensor_by_tensor():
    source, x = LSTM(3, 4), torch.randn(5, 2, 3)
    layer = LSTM(3, 4, device="meta")
    for name, value in source.state_dict().items():
        if name in layer._parameters:
            setattr(layer, name, nn.Parameter(value.clone()))
        else:
            setattr(layer, name, value.clone())
    assert torch.equal(layer(x)[0], source(x)[0])
    LSTM(3, 4).load_state_dict(layer.state_dict())


def test_parameters_alone_may_be_on_the_meta_device(monkeypatch):
    # accelerate.init_empty_weights does this, and dispatches buffers with their values
    def register(module, name, parameter):
        module._parameters[name] = nn.Parameter(parameter.to("meta"))

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "register_parameter", register)
        layer = LSTM(3, 4)
    assert layer.weight_ih_l0.is_meta
    assert torch.equal(layer.mechanism_code, LSTM(3, 4).mechanism_code)


def test_a_code_that_another_library_left_undefined_is_saved_as_it_is_meant():
    layer = LSTM(3, 4)
    layer.mechanism_code = torch.full_like(layer.mechanism_code, -4e13)
    state = layer.state_dict()
    assert torch.equal(state["mechanism_code"], LSTM(3, 4).mechanism_code)
    LSTM(3, 4).load_state_dict(state)


@pytest.mark.parametrize("name", ["standard", "UR"])
def test_a_hook_renames_keys_before_the_check(name):
    def rename(module, state, prefix, *rest):
        for key in [k for k in state if "old_" in k]:
            state[key.replace("old_", "")] = state.pop(key)

    models = [nn.ModuleDict({"rnn": LSTM(3, 4, mechanism=name)}) for _ in range(2)]
    state = {k.replace("rnn.", "rnn.old_"): v for k, v in models[0].state_dict().items()}
    models[1]["rnn"].register_load_state_dict_pre_hook(rename)
    for _ in range(2):  # the hook stays
        models[1].load_state_dict(dict(state))
    assert torch.equal(models[1]["rnn"].weight_hh_l0, models[0]["rnn"].weight_hh_l0)


def test_a_state_without_metadata_is_refused_by_the_names_of_its_mechanisms():
    state = dict(LSTM(3, 4, mechanism="UR").state_dict())
    with pytest.raises(RuntimeError, match="is of mechanism 'R' or 'UR'"):
        LSTM(3, 4, mechanism="standard").load_state_dict(state)


@pytest.mark.parametrize("kind", [*KINDS, MinGRU, lambda *sizes: GateUnit(8)])
def test_layers_are_made_and_loaded_without_values(kind):
    state = kind(3, 4).state_dict()
    with FakeTensorMode():
        layer = kind(3, 4)
        layer.load_state_dict(layer.state_dict())
    empty = kind(3, 4).to("meta").to_empty(device="cpu")
    assert torch.equal(empty.mechanism_code, state["mechanism_code"])
    assigned = kind(3, 4).to("meta")
    assigned.load_state_dict(state, assign=True)
    assert not any(value.is_meta for value in assigned.state_dict().values())


@pytest.mark.parametrize("kind", [*KINDS, MinGRU, lambda *sizes: GateUnit(sizes[1])])
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
    assert not torch.equal(refine, -forget)  # two draws
    assert first[:64].abs().max() <= torch.tensor(31.0).log() + 1e-6
    assert not layers[0].bias_hh_l0.any()


def called(layer, x):
    """The outputs of a layer, or of a cell after two steps."""
    result = layer(x[1], layer(x[0])) if isinstance(layer, CELLS) else layer(x)
    return result[0] if isinstance(result, tuple) else result


class Called(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return called(self.layer, x)


@pytest.mark.parametrize("two_biases", [True, False])
@pytest.mark.parametrize("name", ["standard", "UR", "OM"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind, name, two_biases):
    layer = kind(3, 4, mechanism=name, two_biases=two_biases)
    layer.requires_grad_(False).requires_grad_(True)
    called(layer, torch.randn(5, 2, 3)).sum().backward()
    assert all(p.requires_grad and p.grad.any() for p in layer.parameters())
    trained = "bias_hh" in " ".join(dict(layer.named_parameters()))
    assert trained == (two_biases or kind in (GRU, GRUCell))
    assert any("bias_hh" in key for key in layer.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_one_bias_loads_the_sum_of_two(kind):
    source, x = kind(3, 4, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    for value in source.parameters():
        nn.init.normal_(value)
    single = kind(3, 4, dtype=torch.float64, two_biases=False)
    single.load_state_dict(source.state_dict())
    torch.testing.assert_close(called(single, x), called(source, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_one_bias_are_those_of_finite_differences(kind):
    layer, x = kind(3, 4, two_biases=False, dtype=torch.float64), torch.randn(4, 2, 3).double()
    model = Called(layer)
    names = [name for name, _ in model.named_parameters()]

    def function(*values):
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, parameters, (x,))

    values = tuple(p.detach().requires_grad_() for p in layer.parameters())
    assert torch.autograd.gradcheck(function, values, fast_mode=True)


def test_one_bias_of_a_gru_trains_what_the_reset_gate_multiplies():
    gru = GRU(3, 4, two_biases=False)
    gru(torch.randn(5, 2, 3))[0].sum().backward()
    assert not gru.bias_hh_l0.grad[:8].any()
    assert gru.bias_hh_l0.grad[8:12].all()


REPARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "pruned": lambda module, name: prune.l1_unstructured(module, name, 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("change", REPARAMETRIZED.values(), ids=REPARAMETRIZED)
@pytest.mark.parametrize("kind", KINDS)
def test_reparametrized_weights_are_read_and_trained(kind, change):
    layer, x = kind(3, 4, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    name = "weight_hh" if kind in CELLS else "weight_hh_l0"
    changed = change(copy.deepcopy(layer), name).eval()
    output = called(changed, x)
    with torch.no_grad():
        getattr(layer, name).copy_(getattr(changed, name))
    torch.testing.assert_close(output, called(layer, x), rtol=0, atol=1e-12)
    output.sum().backward()
    assert all(p.grad is not None for p in changed.parameters())


@pytest.mark.parametrize("kind", [LSTM, Minimal, LSTMCell])
def test_tied_weights_of_a_cell_and_of_a_layer(kind):
    suffix, x = "" if kind in CELLS else "_l0", torch.randn(5, 2, 4, dtype=torch.float64)
    module = kind(4, 4, dtype=torch.float64)
    names = "weight_ih" + suffix, "weight_hh" + suffix
    with torch.no_grad():
        getattr(module, names[1]).copy_(getattr(module, names[0]))
    apart = copy.deepcopy(module)
    setattr(module, names[1], getattr(module, names[0]))
    output, expected = called(module, x), called(apart, x)
    assert torch.equal(output, expected)
    output.sum().backward()
    expected.sum().backward()
    gradient = sum(getattr(apart, name).grad for name in names)
    torch.testing.assert_close(getattr(module, names[0]).grad, gradient, rtol=1e-12, atol=1e-12)
    module.load_state_dict(copy.deepcopy(module).state_dict())
    assert getattr(module, names[0]) is getattr(module, names[1])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_names_of_weights_are_those_of_torch(kind):
    for keywords in ({"bidirectional": True}, {"bias": False}):
        layer = {"LSTM": LSTM, "GRU": GRU}[kind](3, 8, 2, mechanism="standard", **keywords)
        expected = getattr(nn, kind)(3, 8, 2, **keywords)
        for name in ("_all_weights", "_flat_weights_names", "mode"):
            assert getattr(layer, name) == getattr(expected, name)
        shapes = [[[w.shape for w in ws] for ws in m.all_weights] for m in (layer, expected)]
        assert shapes[0] == shapes[1]


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
