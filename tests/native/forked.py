"""Runs a layer, forks, and runs it again in the child and in the parent; ends with status 0.

python forked.py own | openmp
"""

import os
import sys

from tests.native.layers import Case, identical

if sys.argv[1] == "openmp":
    import torch

    from gatecore.backends.native import library

    torch.set_num_threads(2)
    torch.randn(500, 500) @ torch.randn(500, 500)
    assert library.use_openmp_of("libgomp") or sys.exit(77)

case = Case("lstm", "OM", 4, 5, 3, 38)
before = case.results(None, "columns", 2)
for _ in range(2):
    child = os.fork()
    if not child:
        same = [identical(case.results(None, "columns", n), before) for n in (2, 3, 1)]
        os._exit(0 if all(same) else 1)
    assert identical(case.results(None, "columns", 2), before)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
