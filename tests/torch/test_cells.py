"""Cells, one step at a time: the native library and torch's operations give the same."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.func import functional_call, vmap  # noqa: E402

from gatecore import mechanism  # noqa: E402
from gatecore.backends.native import library  # noqa: E402
from gatecore.backends.torch import (  # noqa: E402
    GRUCell,
    LSTMCell,
    MinGRUCell,
    MinimalCell,
)
from gatecore.backends.torch.sequence import one_step  # noqa: E402

pytestmark = pytest.mark.skipif(not library.available(), reason=str(library.unsupported()))
KINDS = pytest.mark.parametrize("kind", [LSTMCell, GRUCell, MinimalCell])
X, H = 5, 18


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


@pytest.fixture
def by_torch(monkeypatch):
    """A function that has all cells computed by torch's operations."""

    def switch():
        monkeypatch.setattr(one_step, "_unsupported", lambda step: True)

    return switch


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def steps_and_gradients(cell, x, start):
    """States after three steps, and the gradients of all that they depend on."""
    state = start
    for _ in range(3):
        state = cell(x, state)
    sources = [x, *parts(start), *(p for p in cell.parameters() if p.requires_grad)]
    loss = sum(((1 + k) * part.sin()).sum() for k, part in enumerate(parts(state)))
    return [*parts(state), *torch.autograd.grad(loss, sources)]


def leaves(cell, batch):
    x = torch.randn(batch, X, requires_grad=True)
    start = [torch.randn(batch, H, requires_grad=True) for _ in parts(cell(x))]
    return x, tuple(start) if len(start) > 1 else start[0]


def assert_equal_results(cell, x, start, by_torch):
    native = steps_and_gradients(cell, x, start)
    assert cell.last_impl == "native"
    by_torch()
    stepped = steps_and_gradients(cell, x, start)
    assert cell.last_impl == "plain"
    for ours, theirs in zip(native, stepped, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@KINDS
@pytest.mark.parametrize("batch", [1, 2, 5, 40])
@pytest.mark.parametrize("name", ["standard", "UR", "OM", "O"])
def test_states_and_gradients_equal_those_of_torchs_operations(kind, name, batch, by_torch):
    cell = kind(X, H, mechanism=mechanism(name, downsize=3) if name == "OM" else name)
    assert_equal_results(cell, *leaves(cell, batch), by_torch)


@pytest.mark.parametrize("settings", [{"bias": False}, {"two_biases": False}, {"bias": True}])
@KINDS
def test_either_bias_has_its_gradient(kind, settings, by_torch):
    cell = kind(X, H, **settings)
    for value in cell.parameters():
        torch.nn.init.normal_(value, std=0.3)
    assert_equal_results(cell, *leaves(cell, 3), by_torch)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@KINDS
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("batch", "name"), [(1, "UR"), (1, "O"), (3, "UR"), (9, "UR")])
def test_cells_that_threads_share_equal_torchs_operations(kind, batch, name, by_torch):
    cell = kind(300, 300, mechanism=name)
    x = torch.randn(batch, 300, requires_grad=True)
    start = tuple(torch.randn(batch, 300, requires_grad=True) for _ in parts(cell(x)))
    assert_equal_results(cell, x, start if len(start) > 1 else start[0], by_torch)


def test_a_mingru_uses_torchs_operations():
    cell = MinGRUCell(X, H)
    cell(torch.randn(1, X))
    assert cell.last_impl == "plain"


@KINDS
def test_a_cell_without_a_state_starts_from_zeros(kind):
    cell, x = kind(X, H), torch.randn(2, X)
    zeros = tuple(torch.zeros(2, H) for _ in parts(cell(x)))
    again = cell(x, zeros if len(zeros) > 1 else zeros[0])
    assert all(map(torch.equal, parts(cell(x)), parts(again)))


@KINDS
def test_results_with_and_without_gradients_are_equal(kind):
    cell, x = kind(X, H), torch.randn(2, X)
    state = cell(x)
    expected = cell(x, state)
    assert parts(expected)[0].requires_grad
    with torch.no_grad():
        assert all(map(torch.equal, parts(expected), parts(cell(x, state))))


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell])
def test_zoneout_takes_the_mean_in_evaluation_and_draws_in_training(kind, by_torch):
    cell = kind(X, H, zoneout=0.3)
    x, start = leaves(cell, 4)
    torch.manual_seed(0)
    drawn = steps_and_gradients(cell, x, start)
    mean = steps_and_gradients(cell.eval(), x, start)
    by_torch()
    torch.manual_seed(0)
    for results, training in ((drawn, True), (mean, False)):
        cell.train(training)
        for ours, theirs in zip(results, steps_and_gradients(cell, x, start), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell])
def test_second_derivatives_equal_those_of_torchs_operations(kind, by_torch):
    cell, results = kind(X, H), []
    x, start = leaves(cell, 2)
    for _ in range(2):
        out = parts(cell(x, start))
        (first,) = torch.autograd.grad(sum(p.pow(2).sum() for p in out), x, create_graph=True)
        results.append(torch.autograd.grad(first.pow(2).sum(), [x, cell.weight_hh, cell.bias_ih]))
        by_torch()
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_transforms_of_torch_func_use_torchs_operations():
    cell, x = LSTMCell(X, H), torch.randn(3, 2, X)
    state = cell(x[0])
    each = vmap(lambda one: cell(one, state)[0])(x)
    assert cell.last_impl == "plain"
    torch.testing.assert_close(each[1], cell(x[1], state)[0])
    params = {name: torch.stack([value, 2 * value]) for name, value in cell.named_parameters()}
    both = vmap(lambda p: functional_call(cell, p, (x[0],))[0])(params)
    torch.testing.assert_close(both[0], cell(x[0])[0])


def test_compiled_and_exported_cells_use_torchs_operations():
    cell, x = GRUCell(X, H), torch.randn(2, X)
    expected = cell(x)
    assert cell.last_impl == "native"
    graph = torch.export.export(cell, (x,))
    assert "gatecore" not in str(graph.graph)
    torch.testing.assert_close(graph.module()(x), expected)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    assert cell.last_impl == "plain"


def test_a_profiled_cell_shows_the_operator_of_a_sequence():
    cell, x = LSTMCell(X, H), torch.randn(2, X)
    expected = cell(x)
    with torch.profiler.profile() as profile:
        h, _ = cell(x)
        h.sum().backward()
    names = {event.name for event in profile.events()}
    assert "gatecore::sequence" in names
    torch.testing.assert_close(h, expected[0])


def test_autocast_rounds_the_hidden_state_alone():
    cell, x = LSTMCell(X, H), torch.randn(2, X)
    expected = cell(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h, c = cell(x)
    assert cell.last_impl == "native"
    assert torch.equal(h, expected[0].bfloat16())
    assert torch.equal(c, expected[1])


def test_a_copied_cell_is_independent():
    cell, x = LSTMCell(X, H), torch.randn(2, X)
    expected = cell(x)
    other = copy.deepcopy(cell)
    with torch.no_grad():
        cell.weight_ih.zero_()
    assert other.last_impl == "native"
    assert torch.equal(other(x)[0], expected[0])


@pytest.mark.parametrize("name", ["weight_hh", "x", "h"])
def test_a_backward_pass_raises_after_in_place_changes_of_its_inputs(name):
    cell = LSTMCell(X, H)
    x, start = leaves(cell, 2)
    output = cell(x, start)[0]
    with torch.no_grad():
        {"weight_hh": cell.weight_hh, "x": x, "h": start[0]}[name].fill_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_backward_pass_can_be_repeated():
    cell, x = LSTMCell(X, H), torch.randn(2, X)
    loss = cell(x)[0].sum()
    again = [torch.autograd.grad(loss, cell.weight_ih, retain_graph=True)[0] for _ in "12"]
    assert torch.equal(*again)


def test_an_empty_batch_gives_the_results_of_torch():
    results = []
    for cell in (LSTMCell(X, H, mechanism="standard"), torch.nn.LSTMCell(X, H)):
        x = torch.randn(0, X, requires_grad=True)
        h, c = cell(x)
        (h.sum() + c.sum()).backward()
        results.append([h, c, x.grad, cell.weight_ih.grad, cell.weight_hh.grad, cell.bias_ih.grad])
    assert all(map(torch.equal, *results))
