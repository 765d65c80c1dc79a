"""The checks of `make gpu` as pytest's tests; one skip, with the reason, where there is no GPU."""

import pytest

from tests.gpu.arrays import Absent, Cupy, Torch
from tests.gpu.checks import checks
from tests.gpu.run import allow_tf32

pytestmark = pytest.mark.gpu


def unsupported(framework):
    """Why a framework cannot run checks here; None if it can."""
    try:
        framework()
    except Absent as absent:
        return str(absent)
    return None


REASONS = [unsupported(framework) for framework in (Cupy, Torch)]
if all(REASONS):
    pytest.skip("; ".join(REASONS), allow_module_level=True)

allow_tf32(False)
CHECKS = list(checks())


@pytest.mark.parametrize(("make", "check"), [c[1:] for c in CHECKS], ids=[c[0] for c in CHECKS])
def test_on_cuda(make, check):
    try:
        framework = make()
    except Absent as absent:
        pytest.skip(str(absent))
    check(framework)
