"""Runs a layer on an OpenMP that grants fewer threads than requested; ends with status 0."""

import ctypes
import sys

import torch

from gatecore.backends.native import library
from tests.native.layers import Case, identical

case = Case("gru", "UR", 4, 5, 3, 38)
alone = case.results(None, "batch", 1)
groups = Case("gru", "UR", 4, 13, 3, 38)  # each thread sums alone: as many groups as were requested
of_three = groups.results(None, "batch", 3)
if not library.use_openmp_of("libgomp"):
    sys.exit(77)
assert identical(case.results(None, "columns", 3), alone)
assert identical(groups.results(None, "batch", 3), of_three)

# called by every thread of an OpenMP region, where no further threads are granted
path = next(p for p in library._mapped("libgomp"))
openmp, found = ctypes.CDLL(path), []


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def inside(_):
    found.append(identical(case.results(None, "columns", 3), alone))
    found.append(identical(groups.results(None, "batch", 3), of_three))


openmp.GOMP_parallel(inside, None, ctypes.c_uint(2), ctypes.c_uint(0))
assert found
assert all(found)
torch.randn(300, 300) @ torch.randn(300, 300)  # the runtime is as it was
assert identical(case.results(None, "columns", 2), alone)
