"""MinGRU over 65,536 steps: every implementation keeps five digits in float32.

An implementation joins by a row of ``IMPLEMENTATIONS``: a function of a case and of ``impl`` that
returns the results in the order of :meth:`Case.exact`.
"""

import functools

import numpy as np
import pytest

from gatecore import backends, cells
from gatecore.backends.native import library

TIME, INPUTS, HIDDEN = 65_536, 2, 8


class Case:
    """Two sequences with resets, by units with timescales from 1 to 1e6.

    The first sequence and its cotangents are constant: the roundings of all steps have one sign.
    """

    def __init__(self, name, time=TIME):
        rng = np.random.default_rng(5)
        self.name = name
        params = cells.MinGRU(INPUTS, HIDDEN, name).init(rng)
        if name != "OM":
            params["bias"][:HIDDEN] = np.log(np.logspace(0.2, 6, HIDDEN) - 1)
            params["weight_ih"][:HIDDEN] *= 0.1
        x, d_output = (rng.standard_normal((time, 2, size)) for size in (INPUTS, HIDDEN))
        x[:, 0], d_output[:, 0] = 0.7, 0.3
        self.resets = np.zeros((time, 2), bool)
        self.resets[time // 3] = True
        self.names = tuple(params)
        arrays = *params.values(), x, rng.standard_normal((2, HIDDEN))
        self.arrays = tuple(array.astype(np.float32) for array in arrays)
        self.cotangents = d_output.astype(np.float32), np.ones((2, HIDDEN), np.float32)

    @functools.cached_property
    def exact(self):
        """Outputs, last state and all gradients in float64, by manual BPTT in NumPy."""
        return by_numpy(self, "reference", np.float64)

    def arguments(self, arrays):
        """The parameters by name, x and the initial state, of arrays in their order."""
        *params, x, state = arrays
        return dict(zip(self.names, params, strict=True)), x, state


case = functools.cache(Case)


def by_numpy(case, impl, dtype=np.float32):
    arguments = case.arguments([array.astype(dtype) for array in case.arrays])
    output, last, pullback = backends.load("numpy").mingru(
        *arguments, case.name, resets=case.resets, impl=impl
    )
    d_params, d_x, d_state = pullback(*(d.astype(dtype) for d in case.cotangents))
    return [output, last, *d_params.values(), d_x, d_state]


def by_torch(case, impl):
    torch = pytest.importorskip("torch")
    from gatecore.backends.torch import mingru

    leaves = [torch.tensor(array, requires_grad=True) for array in case.arrays]
    resets = torch.tensor(case.resets)
    results = mingru(*case.arguments(leaves), case.name, resets=resets, impl=impl)
    gradients = torch.autograd.grad(results, leaves, [torch.tensor(d) for d in case.cotangents])
    return [value.detach().numpy() for value in (*results, *gradients)]


def by_jax(case, impl):
    jax = pytest.importorskip("jax")
    layer = functools.partial(
        backends.load("jax").mingru, mechanism=case.name, resets=case.resets, impl=impl
    )

    @jax.jit
    def run(cotangents, *arrays):
        results, pullback = jax.vjp(lambda *a: layer(*case.arguments(a)), *arrays)
        return *results, *pullback(cotangents)

    return [np.asarray(value) for value in run(case.cotangents, *case.arrays)]


IMPLEMENTATIONS = {
    "numpy reference": by_numpy,
    "numpy native": by_numpy,
    "torch native": by_torch,
    "torch parallel": by_torch,
    "torch reference": by_torch,
    "torch plain": by_torch,
    "jax native": by_jax,
    "jax parallel": by_jax,
    "jax reference": by_jax,
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["UR", "OM"])
def test_float32_keeps_five_digits_over_65536_steps(implementation, name):
    """All outputs and gradients; those of the constant sequence also apart."""
    impl = implementation.split()[1]
    if impl == "native" and library.unsupported():
        pytest.skip(library.unsupported())
    results = IMPLEMENTATIONS[implementation](case(name), impl)
    for got, exact in zip(results, case(name).exact, strict=True):
        assert got.dtype == np.float32
        by_sequence = exact.shape[-2:-1] == (2,)
        for part in (np.s_[..., 0, :], np.s_[..., 1, :]) if by_sequence else (...,):
            error = np.linalg.norm(got[part] - exact[part])
            assert error < 1e-5 * np.linalg.norm(exact[part])


def test_states_by_torchs_scan_do_not_add_up_roundings():
    """It takes a second for a thousand steps, where roundings in float32 reach 1e-6."""
    torch = pytest.importorskip("torch")
    from gatecore.backends.torch import mingru

    short = Case("standard", 4096)
    arguments = short.arguments([torch.tensor(array) for array in short.arrays])
    output, _ = mingru(*arguments, "standard", resets=torch.tensor(short.resets), impl="scan")
    error = np.linalg.norm(output.numpy()[:, 0] - short.exact[0][:, 0])
    assert error < 2e-7 * np.linalg.norm(short.exact[0][:, 0])
