"""The CUDA header's gate algebra, compiled for the host, is the one of `gatecore`."""

import re

import numpy as np
import pytest

import gatecore
from gatecore import vjp
from gatecore.backends.cuda import copies, source, steps
from tests.cuda.host import SOURCES, address
from tests.support import ULP, relative_error

BACKENDS = SOURCES.parents[1]
EXTREMES = np.array([0, 1e-4, 1, 5, 17, 40, 80, 88, 100, 104, 1000], dtype=np.float32)


def logits(rng, count=2000):
    """Random logits of every size, and all pairs of extreme ones."""
    ends = np.concatenate([EXTREMES, -EXTREMES])
    pairs = np.stack(np.meshgrid(ends, ends)).reshape(2, -1)
    random = rng.standard_normal((2, count)) * rng.choice([1, 10, 30], count)
    return np.concatenate([pairs, random], axis=1).astype(np.float32)


def within(got, exact, ulp):
    """Relative error below so many ulp; where float32 itself has no more than denormals, tiny."""
    got, exact = np.asarray(got, np.float64), np.asarray(exact, np.float64)
    assert np.isfinite(got).all()
    normal = np.abs(exact) > 1e-30  # a product of two numbers near the end of the range is neither
    assert relative_error(got[normal], exact[normal]) <= ulp * ULP
    assert np.abs(got[~normal] - exact[~normal]).max(initial=0) < 1e-30


def test_refine_and_its_derivatives_agree_to_a_few_ulp(host_library, rng):
    x, y = map(np.ascontiguousarray, logits(rng))
    v = rng.standard_normal(x.shape).astype(np.float32)
    out = np.empty((7, len(x)), np.float32)
    host_library.refine_row(len(x), address(x), address(y), address(v), address(out))
    f, r = gatecore.sigmoid(x.astype(np.float64)), gatecore.sigmoid(y.astype(np.float64))
    d_f, d_r = gatecore.refine_vjp(f, r, v.astype(np.float64))
    exact = [*f, vjp.sigmoid_vjp(x.astype(np.float64), v.astype(np.float64))]
    for got, wanted in zip(out, [*exact, *gatecore.refine(f, r), d_f, d_r], strict=True):
        within(got, wanted, 16)


def test_master_gates_agree_to_a_few_ulp_and_their_derivatives_to_that_of_their_terms(
    host_library, rng
):
    first, second = logits(rng), logits(rng)[:, ::-1]
    z = np.ascontiguousarray(np.concatenate([first, second]))
    v, w = rng.standard_normal((2, z.shape[1])).astype(np.float32)
    out = np.empty((6, z.shape[1]), np.float32)
    host_library.master_row(z.shape[1], *map(address, (z, v, w, out)))
    gates = [gatecore.sigmoid(row) for row in z.astype(np.float64)]
    forget, input = gatecore.master(*gates)
    for got, wanted in zip(out, [*forget, *input], strict=False):
        within(got, wanted, 16)
    d_big = gatecore.master_vjp(*gates, v.astype(np.float64), w.astype(np.float64))[:2]
    size = np.abs(v) + np.abs(w)  # the two terms of either may cancel
    for got, wanted in zip(out[4:], d_big, strict=True):
        assert np.max(np.abs(got - wanted) / size) <= 8 * ULP


BLOCKS = [(1, 1), (2, 2), (7, 1), (8, 4), (24, 8)]  # threads, lanes of a warp


@pytest.mark.parametrize(("threads", "lanes"), BLOCKS)
@pytest.mark.parametrize("count", [1, 2, 16, 37, 96])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_cumax_by_a_blocks_sums_agrees_and_has_exact_ends(
    host_library, rng, threads, lanes, count, scale
):
    repeats = 3
    z = (scale * rng.standard_normal(count)).astype(np.float32)
    v = rng.standard_normal(count * repeats).astype(np.float32)
    for negated in (0, 1):
        out = np.full((2, 4, count), np.nan, np.float32)
        host_library.cumax_row(
            threads, lanes, count, repeats, negated, address(z), address(v), address(out)
        )
        for logits, gate in zip((z, -z), out, strict=True):
            exact = gatecore.cumax(logits.astype(np.float64))
            within(gate[0], exact.value, 64)
            within(gate[1], exact.complement, 64)
            assert gate[0, -1] == 1
            assert gate[1, -1] == 0
            assert gate[0].max() <= 1
            wanted = gatecore.cumax_vjp(
                logits.astype(np.float64), v.astype(np.float64), downsize=repeats
            )
            wanted = -wanted if negated else wanted
            assert np.abs(gate[3] - wanted).max() <= 64 * ULP * np.abs(v).sum()


def test_a_blocks_sums_repeat_bit_for_bit(host_library, rng):
    z, v = rng.standard_normal((2, 53)).astype(np.float32)
    results = []
    for _ in range(5):
        out = np.full((2, 4, 53), np.nan, np.float32)
        host_library.cumax_row(12, 4, 53, 1, 0, address(z), address(v), address(out))
        results.append(out.tobytes())
    assert len(set(results)) == 1


def test_newtons_step_makes_the_hardwares_reciprocal_exact_to_an_ulp(host_library, rng):
    """The GPU's is within 1 ulp; a sigmoid's argument lies between 1 and 1 + exp(87)."""
    x = (1 + np.exp(rng.uniform(-20, 87, 5000))).astype(np.float32)
    exact = 1 / x.astype(np.float64)
    for error in (-1, 0, 1):
        y = exact.astype(np.float32)
        y += error * np.spacing(y)
        out = np.empty_like(x)
        host_library.newton_row(len(x), address(x), address(y), address(out))
        assert np.all(np.abs(out - exact) <= 1.02 * ULP * exact)


@pytest.mark.parametrize(
    ("struct", "file", "record"),
    [
        ("Shape", "sequence", steps.SHAPE),
        ("Sequence", "sequence", steps.RECORD),
        ("Copy", "copies", copies.COPIES["copies"].base),
    ],
)
def test_the_kernel_arguments_have_the_fields_of_the_header(host_library, struct, file, record):
    text = (SOURCES / f"{file}.cuh").read_text(encoding="utf-8")
    body = text[text.index(f"struct {struct} {{") :]
    body = body[: body.index("\n};")]
    kinds = r"long long|double|T\*|Global<(?:const )?(?:T|bool)>"
    declared = re.findall(rf"^\s+({kinds}) (\w+);", body, re.MULTILINE)
    assert tuple(name for _, name in declared) == record.names
    doubles = {name for kind, name in declared if kind == "double"}
    assert doubles == {name for name in record.names if record[name] == np.float64}
    sizes = {"Shape": host_library.shape_bytes, "Sequence": host_library.sequence_bytes}
    sizes["Copy"] = lambda: host_library.copies_bytes() / copies.MOST
    assert sizes[struct]() == record.itemsize


def test_every_argument_is_commented():
    for name in source.FILES:
        for line in (BACKENDS / name).read_text(encoding="utf-8").splitlines():
            if re.match(r"\s+(T\*|Global<.*>) \w+;", line):
                assert "//" in line, f"{name}: {line}"


def test_the_text_for_the_compiler_is_self_contained():
    assert '#include "' not in source.text()
    kernels = {f"cuda/src/{path.name}" for path in SOURCES.glob("*.cu*")}
    assert set(source.FILES) == kernels | {"common/formulas.h"}
