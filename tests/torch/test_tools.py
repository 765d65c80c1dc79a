"""What people do to torch's recurrent layers, done to these: the table of docs/torch.md.

Every row of the table names, in ``ROWS``, the test that checks it.
"""
# ruff: noqa: E501  each row of the table is one line, as in the page

import copy
import functools
import importlib.util
import io
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from gatecore.backends.torch import GRU, LSTM, GRUCell, LSTMCell, MinGRU, Minimal  # noqa: E402
from tests.packaging.layout import ROOT  # noqa: E402

ROWS = {
    "constructor arguments, names, order and shapes of parameters, initial weights": "test_equals_torch::test_parameters_have_the_names_shapes_and_order_of_torch",
    "`batch_first`, `bidirectional`, `proj_size`, unbatched and packed input": "test_equals_torch::test_standard_is_the_layer_of_torch",
    "initial and last states": "test_equals_torch::test_an_initial_state_and_its_gradient",
    "`dropout` between layers": "test_equals_torch::test_dropout_acts_between_layers_in_training_only",
    "errors": "test_modules::test_errors_are_those_of_torch",
    "`torch.manual_seed`, `reset_parameters`": "test_state::test_the_seed_of_torch_determines_the_initial_parameters",
    "`_all_weights`, `_flat_weights_names`, `all_weights`, `mode`": "test_state::test_names_of_weights_are_those_of_torch",
    "`flatten_parameters`": "test_tools::test_shared_memory_and_copies",
    "`nn.DataParallel`": "test_tools::test_replicas",
    "`copy.deepcopy`, pickle, `share_memory`": "test_tools::test_shared_memory_and_copies",
    "`state_dict` from and to `nn.LSTM`, `nn.GRU`": "test_state::test_torch_compatible_mechanisms_interchange_with_each_other_and_with_torch",
    "averaging, moving averages and casts of all entries of `state_dict()`": "test_state::test_averages_and_casts_of_all_entries_load",
    "safetensors, `AveragedModel`": "test_state::test_states_survive_safetensors_and_averaged_models",
    "`torch.distributed.checkpoint`": "test_tools::test_distributed_checkpoints",
    "`functional_call`, `stack_module_state` with the whole `state_dict()`": "test_state::test_a_state_dict_is_a_value_of_functional_call_and_of_stacked_models",
    "`load_state_dict` pre-hooks that rename keys": "test_state::test_a_hook_renames_keys_before_the_check",
    '`FakeTensorMode`, `device="meta"`, `to_empty`': "test_state::test_layers_are_made_and_loaded_without_values",
    "`weight_norm`, `spectral_norm`, pruning, dropped weights": "test_state::test_reparametrized_weights_are_read_and_trained",
    "tied weights": "test_state::test_tied_weights_of_a_cell_and_of_a_layer",
    "freezing and unfreezing, `DistributedDataParallel`": "test_tools::test_frozen_and_unfrozen_under_ddp",
    "clipping of `p.grad`": "test_tools::test_clipping_loops_over_gradients",
    "second and third derivatives": "test_operation::test_third_derivatives_exist",
    "`is_grads_batched`, `jacobian(vectorize=True)`, `hessian(vectorize=True)`": "test_batched_gradients::test_jacobians_of_layers",
    "`torch.func`: `grad`, `vmap`, `jacrev`": "test_transforms::test_functional_gradients_of_many_models_at_once",
    "forward-mode derivatives": "test_transforms::test_forward_mode",
    "autocast, `.half()`, `.bfloat16()`": "test_precision::test_autocast_rounds_outputs_only",
    "states of another precision": "test_tools::test_states_of_any_precision_beside_half_precision_input",
    "`torch.compile`": "test_compile::test_compiled_whole",
    "`torch.func` inside `torch.compile`": "test_batched_gradients::test_transformations_inside_a_compiled_function",
    "`torch.export`, any length and batch size": "test_compile::test_exported_for_any_time_and_batch",
    "`torch.onnx.export(dynamo=True)`": "test_compile::test_onnx_runs_another_length",
    "`torch.onnx.export(dynamo=False)`": "test_tools::test_the_tracing_onnx_exporter_is_refused",
    "`torch.jit.trace`": "test_transforms::test_a_traced_layer_runs_other_lengths_and_batch_sizes",
    "`torch.jit.script`": "test_script::test_a_scripted_layer_equals_the_eager_one",
    "`torch.fx.symbolic_trace`": "test_transforms::test_a_layer_is_one_node_of_a_traced_graph",
    "`torch.profiler`": "test_tools::test_the_profiler_shows_forward_and_backward_by_name",
    "`torch.utils.flop_counter`": "test_tools::test_flops_are_those_of_the_matrix_products",
    "torchinfo": "test_tools::test_torchinfo_counts_parameters_and_products",
    "`torch.ao.quantization.quantize_dynamic`": "test_tools::test_dynamic_quantization_warns",
    "`isinstance(layer, nn.LSTM)`": "test_tools::test_layers_are_not_instances_of_torchs",
}
KINDS = pytest.mark.parametrize("kind", [LSTM, GRU, Minimal, MinGRU])


def x_of(*shape, **keywords):
    return torch.randn(*(shape or (5, 2, 3)), **keywords)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(4)


def test_each_row_of_the_table_has_its_test():
    page = (ROOT / "docs" / "torch.md").read_text(encoding="utf-8")
    table = page.partition("## Tools around a layer")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if "|" in line]
    assert rows[2:] == list(ROWS)
    for test in ROWS.values():
        file, name = test.split("::")
        source = (ROOT / "tests" / "torch" / f"{file}.py").read_text(encoding="utf-8")
        assert f"\ndef {name}(" in source


def test_layers_are_not_instances_of_torchs():
    layers = LSTM(3, 4), GRU(3, 4), LSTMCell(3, 4), GRUCell(3, 4)
    assert not any(isinstance(layer, nn.RNNBase | nn.RNNCellBase) for layer in layers)


# ---- processes and devices


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def replica_of(layer):
    """What ``nn.DataParallel`` makes of a layer for each device: its weights are no parameters."""
    replica = layer._replicate_for_data_parallel()
    for name, parameter in layer._parameters.items():
        if parameter is None:
            replica._parameters[name] = None
        else:
            setattr(replica, name, parameter * 1)  # as broadcast gives: not a leaf
    return replica


@pytest.mark.parametrize("make", [LSTM, functools.partial(GRU, two_biases=False), LSTMCell])
def test_replicas(make):
    layer, x = make(3, 4), x_of(2, 3) if make is LSTMCell else x_of()
    replica = replica_of(layer)
    torch.testing.assert_close(replica(x), layer(x), rtol=0, atol=0)
    replica(x)[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert torch.equal(nn.DataParallel(layer)(x)[0], layer(x)[0])


@pytest.mark.parametrize("two_biases", [True, False])
@KINDS
def test_frozen_and_unfrozen_under_ddp(kind, two_biases, process_group):
    options = {} if kind is MinGRU else {"two_biases": two_biases}
    layer = kind(3, 4, **options).requires_grad_(False)
    model = nn.Sequential(nn.Linear(3, 3), layer)
    for frozen in (True, False):
        layer.requires_grad_(not frozen)
        parallel = nn.parallel.DistributedDataParallel(model)
        for _ in "12":  # the second one refuses parameters that the first left without a gradient
            parallel(x_of())[0].sum().backward()
        assert all((p.grad is None) == frozen for p in layer.parameters())


def test_clipping_loops_over_gradients():
    model = nn.Sequential(nn.Linear(3, 3), GRU(3, 4))
    model(x_of())[0].sum().backward()
    for parameter in model.parameters():
        parameter.grad.data.clamp_(-1e-3, 1e-3)
    assert nn.utils.clip_grad_norm_(model.parameters(), 1e-4, error_if_nonfinite=True) > 0
    nn.utils.clip_grad_value_(model.parameters(), 1e-5)


def test_distributed_checkpoints(tmp_path, process_group):
    import torch.distributed.checkpoint as dcp

    saved, loaded = LSTM(3, 4, 2), LSTM(3, 4, 2)
    dcp.save(saved.state_dict(), checkpoint_id=tmp_path / "state")
    state = loaded.state_dict()
    dcp.load(state, checkpoint_id=tmp_path / "state")
    loaded.load_state_dict(state)
    x = x_of()
    assert torch.equal(loaded(x)[0], saved(x)[0])


@KINDS
def test_shared_memory_and_copies(kind):
    layer, x = kind(3, 4).share_memory(), x_of()
    layer.flatten_parameters()
    assert all(p.is_shared() for p in layer.parameters())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
        assert torch.equal(twin(x)[0], layer(x)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_the_tracing_onnx_exporter_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), LSTM(3, 4))
    with pytest.raises(RuntimeError, match=r"use torch\.onnx\.export\(\.\.\., dynamo=True\)"):
        torch.onnx.export(model, (x_of(),), io.BytesIO(), dynamo=False)
    with pytest.raises(TypeError, match="positional arguments"):
        torch.onnx.export(model[1], (x_of(),), io.BytesIO(), dynamo=False)


# ---- seen by tools


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@KINDS
def test_the_profiler_shows_forward_and_backward_by_name(kind, dtype):
    layer, x = kind(3, 4, 2, dtype=dtype), x_of(dtype=dtype)
    expected = torch.autograd.grad(layer(x)[0].sum(), layer.weight_ih_l0)[0]
    with torch.autograd.profiler.profile() as profile:
        gradient = torch.autograd.grad(layer(x)[0].sum(), layer.weight_ih_l0)[0]
        with torch.no_grad():
            layer(x)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert (counts["gatecore::sequence"], counts["gatecore::sequence_backward"]) == (4, 2)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mechanism", ["standard", "UR", "OM"])
@KINDS
def test_flops_are_those_of_the_matrix_products(kind, mechanism):
    counts = {}
    for impl in ("plain", "auto"):
        layer, x = kind(3, 4, mechanism=mechanism, impl=impl), x_of(requires_grad=True)
        state = torch.zeros(1, 2, 4, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            loss = layer(x, (state, state) if kind is LSTM else state)[0].sum()
            forward = counter.get_total_flops()
            loss.backward()
        counts[impl] = forward, counter.get_total_flops()
    assert counts["auto"] == counts["plain"]
    layer(x.detach())[0].sum().backward()
    with FlopCounterMode(display=False) as counter:
        layer(x.detach())[0].sum().backward()
    product = 2 * 5 * 2 * layer.weight_ih_l0.shape[0]
    assert counter.get_total_flops() == product * (2 * 3 + (kind is not MinGRU) * 3 * 4)


@pytest.mark.skipif(not importlib.util.find_spec("torchinfo"), reason="torchinfo is not installed")
@KINDS
def test_torchinfo_counts_parameters_and_products(kind):
    import torchinfo

    layer = kind(3, 4, 2)
    summary = torchinfo.summary(nn.Sequential(layer), input_size=(5, 2, 3), verbose=0)
    count = sum(p.numel() for p in layer.parameters())
    assert summary.total_params == summary.trainable_params == count
    assert summary.total_mult_adds == 5 * 2 * count


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("make", [LSTM, GRUCell])
def test_dynamic_quantization_warns(make):
    model = nn.Sequential(nn.Linear(3, 3), make(3, 4))
    with pytest.warns(UserWarning, match=f"leaves {make.__name__} in its dtype: use .bfloat16"):
        quantized = torch.ao.quantization.quantize_dynamic(model)
    assert type(quantized[0]) is not nn.Linear
    assert type(quantized[1]) is make


# ---- precision


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.float64, torch.bfloat16])
@KINDS
def test_states_of_any_precision_beside_half_precision_input(kind, state_dtype):
    layer = kind(3, 4, dtype=torch.bfloat16)
    state = torch.randn(1, 2, 4).to(state_dtype)
    output, last = layer(x_of(dtype=torch.bfloat16), (state, state) if kind is LSTM else state)
    assert output.dtype is torch.bfloat16
    assert (last[1] if kind is LSTM else last).dtype is torch.float32
