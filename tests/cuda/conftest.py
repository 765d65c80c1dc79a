"""The host build of the kernels, once a session."""

import pytest

from tests.cuda import host


@pytest.fixture(scope="session")
def host_library(tmp_path_factory):
    """The kernels as a shared library of the host."""
    if host.LACKING:
        pytest.skip(host.LACKING)
    return host.library(tmp_path_factory.mktemp("kernels"))
