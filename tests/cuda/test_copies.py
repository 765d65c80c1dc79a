"""The copies around a sequence, by the kernel's function compiled for the host."""

import numpy as np
import pytest

from gatecore.backends.cuda.copies import COPIES, MOST, Copies, Matrix


def copied(library, dtype, threads, **addresses):
    """Run one launch of copies, {name: (sizes, arrays by address)}."""
    copies = Copies({name: sizes for name, (sizes, _) in addresses.items()})
    for name, (_, arrays) in addresses.items():
        copies.set(name, **{key: array.ctypes.data for key, array in arrays.items()})
    library.run_copies(int(dtype == "float64"), copies.words, copies.count, threads)
    return copies


@pytest.mark.parametrize("threads", [1, 3, 7, 64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 6), (4, 3), (3, 8)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_copy_is_the_sum_of_its_sources_but_for_zeroed_rows(
    host_library, dtype, shape, threads, rng
):
    (rows, columns), gap = shape, 2
    source, added = rng.standard_normal((2, rows, columns + gap)).astype(dtype)
    zeroed = rng.random(rows) < 0.5
    source[zeroed] = np.nan
    target = np.full((rows, columns + 1), 7, dtype)
    sizes = Matrix(rows, columns, columns + 1, columns + gap)
    arrays = {"target": target, "source": source, "added": added, "zeroed": zeroed}
    copied(host_library, dtype, threads, only=(sizes, arrays))
    wanted = np.where(zeroed[:, None], 0, source + added)[:, :columns]
    assert np.array_equal(target[:, :columns], wanted)
    assert np.all(target[:, columns:] == 7)


def test_all_copies_of_a_launch_are_made(host_library, rng):
    row, matrix = np.float32([1, 0, 0]), rng.standard_normal((4, 3)).astype(np.float32)
    repeated, zeros, same, none = (np.full((4, 3), np.nan, np.float32) for _ in range(4))
    sizes = Matrix(4, 3, 3, 3)
    copied(
        host_library, "float32", 5,
        repeated=(sizes._replace(source_stride=0), {"target": repeated, "source": row}),
        nothing=(sizes._replace(rows=0), {"target": none, "source": matrix}),
        zeros=(sizes, {"target": zeros}),
        same=(sizes, {"target": same, "source": matrix}),
    )  # fmt: skip
    assert np.array_equal(repeated, np.tile(row, (4, 1)))
    assert np.array_equal(zeros, np.zeros((4, 3)))
    assert np.array_equal(same, matrix)
    assert np.isnan(none).all()


def test_the_parameter_has_the_size_of_the_header_and_the_grid_is_bounded():
    sizes = Matrix(784 * 50, 2, 4, 2)
    copies = Copies({"inputs": sizes, "bias": Matrix(3, 1, 1, 1)})
    assert len(bytes(copies.words)) == COPIES.itemsize == MOST * 64
    assert (copies.count, copies.blocks) == (2, 77)  # 1024 entries a block of the largest copy
    assert Copies({"inputs": sizes._replace(columns=1000)}).blocks == 1024
    assert Copies({"bias": Matrix(1, 1, 1, 1)}).blocks == 1
