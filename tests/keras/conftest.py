"""What the tests of the Keras layers share."""

import os

import pytest

keras = pytest.importorskip("keras", reason="keras is not installed")
keras.config.set_floatx(
    os.environ.get("GATECORE_KERAS_FLOATX", "float32")
)  # test_processes sets it


# warnings of Keras itself: with NumPy 2, and in its own test of a layer
IGNORED = ("__array__ implementation:DeprecationWarning", "`shuffle=True` was passed:UserWarning")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "keras":
            for warning in IGNORED:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}"))
