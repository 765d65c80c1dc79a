"""What holds for every memory core, as tests; and what their tests share."""

import io
import itertools

import numpy as np
import pytest
import torch

from gatecore import MECHANISMS
from gatecore.backends.torch.nn import parameters

TINY = 1e-12


def stirred(core):
    """The core with larger weights than initial ones, so that every part of it matters."""
    with torch.no_grad():
        for value in core.parameters():
            if value.requires_grad:
                value.add_(0.5 * torch.randn_like(value))
    return core


def inputs(time, batch, size, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((time, batch, size)))


def params(cell):
    return parameters.core_params(cell._cell, cell._weights(0), cell.two_biases, torch.float64)


def leaves(state):
    return [state] if isinstance(state, torch.Tensor) else [t for s in state for t in leaves(s)]


def close(mine, its):
    for a, b in zip(leaves(mine), leaves(its), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TINY)


def conventions(tests, make, steps=3):
    """Add to a test module's names the tests of what all cores promise.

    ``steps`` is how many finite differences are taken through, and compiled at most.
    """

    @pytest.mark.parametrize("name", MECHANISMS)
    def test_two_halves_are_the_whole(name):
        core, x = make(name), inputs(7, 3, 3)
        whole, last = core(x)
        first, state = core(x[:3])
        second, end = core(x[3:], state)
        torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=TINY)
        close(end, last)
        assert whole.shape == (7, 3, core.output_size)
        assert all(len(leaf) == 3 for leaf in leaves(last))  # the batch comes first

    def test_a_reset_begins_a_new_sequence():
        core, x = make(), inputs(8, 3, 3)
        resets = torch.zeros(8, 3, dtype=torch.bool)
        resets[0, 2] = resets[3, 0] = resets[3, 1] = resets[5, 1] = resets[6, 1] = True
        _, before = core(inputs(4, 3, 3, seed=1))
        found, last = core(x, before, resets)
        for b, starts in enumerate([(3, 8), (3, 5, 6, 8), (0, 8)]):
            for start, end in itertools.pairwise(starts):
                alone, state = core(x[start:end, b : b + 1])
                torch.testing.assert_close(found[start:end, b : b + 1], alone, rtol=0, atol=TINY)
            close([leaf[b : b + 1] for leaf in leaves(last)], leaves(state))
        kept, _ = core(x[:3, :2], tuple_of(before, slice(2)))
        torch.testing.assert_close(found[:3, :2], kept, rtol=0, atol=TINY)

    @pytest.mark.parametrize("name", ["standard", "UR", "OM"])
    def test_gradients_are_those_of_finite_differences(name):
        core, x = make(name), inputs(steps, 2, 3).requires_grad_()
        _, before = core(inputs(2, 2, 3, seed=1))
        names = [k for k, v in core.named_parameters() if v.requires_grad]
        values = [core.get_parameter(k).detach().clone().requires_grad_() for k in names]

        def run(x, *values):
            given = dict(zip(names, values, strict=True))
            return torch.func.functional_call(core, given, (x, detached(before)))[0]

        assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)

    def test_every_parameter_matters():
        core, x = make(), inputs(6, 2, 3)
        core(x)[0].square().sum().backward()
        for name, value in core.named_parameters():
            if value.requires_grad:
                assert value.grad is not None, name
                assert value.grad.abs().max() > 0, name

    def test_a_state_dict_makes_the_same_core_and_refuses_another_mechanism():
        core, other, x = make(), make(), inputs(4, 2, 3)
        other.reset_parameters()
        assert not torch.equal(core(x)[0], other(x)[0])
        file = io.BytesIO()
        torch.save(core.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(core(x)[0], other(x)[0])
        with pytest.raises(RuntimeError, match="mechanism 'UR'"):
            make("OM").load_state_dict(core.state_dict())

    def test_torchs_seed_determines_the_parameters():
        first, second = make(), make()
        for core in (first, second):
            torch.manual_seed(11)
            core.reset_parameters()
        for mine, its in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(mine, its)
        first.reset_parameters()
        moved = [
            not torch.equal(a, b)
            for a, b in zip(first.parameters(), second.parameters(), strict=True)
        ]
        assert sum(moved) >= 4

    def test_it_compiles_as_one_graph():
        time = min(steps, 2)
        core, x, resets = make(), inputs(time, 2, 3), torch.tensor([[False, True]] * time)
        before = detached(core(inputs(2, 2, 3, seed=1))[1])
        compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
        found, expected = compiled(x, before, resets), core(x, before, resets)
        close(found, expected)
        trained = [v for v in core.parameters() if v.requires_grad]
        close(*(torch.autograd.grad(o.square().sum(), trained) for o, _ in (found, expected)))

    def test_it_says_what_it_is():
        for name in MECHANISMS:
            assert f"mechanism='{name}'" in repr(make(name))

    def test_inputs_that_do_not_fit_are_refused():
        core = make()
        with pytest.raises(ValueError, match=r"x must have shape \(time, batch, 3\).*\(4, 2\)"):
            core(torch.zeros(4, 2, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"resets must be torch.bool of shape \(4, 2\)"):
            core(inputs(4, 2, 3), None, torch.zeros(4, 2))
        with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
            make(slots=0)

    for name, value in list(locals().items()):
        if name.startswith("test_"):
            tests[name] = value


def detached(state):
    if isinstance(state, torch.Tensor):
        return state.detach()
    return tuple(detached(part) for part in state)


def tuple_of(state, rows):
    if isinstance(state, torch.Tensor):
        return state[rows]
    return tuple(tuple_of(part, rows) for part in state)
