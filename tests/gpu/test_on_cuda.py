"""The checks of `make gpu` as pytest's tests: each is skipped, with the reason, without a GPU."""

import pytest

from tests.gpu.arrays import Absent
from tests.gpu.checks import checks

pytestmark = pytest.mark.gpu
CHECKS = list(checks())


@pytest.mark.parametrize(("make", "check"), [c[1:] for c in CHECKS], ids=[c[0] for c in CHECKS])
def test_on_cuda(make, check):
    try:
        framework = make()
    except Absent as absent:
        pytest.skip(str(absent))
    check(framework)
