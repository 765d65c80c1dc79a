"""The choice among a backend's implementations."""

import dataclasses
from collections.abc import Callable

import pytest

from gatecore.backends.common.implementation import checked, choose


@dataclasses.dataclass(frozen=True)
class Implementation:
    name: str
    forward: Callable = print
    backward: Callable = print
    dtype: str | None = None

    def unsupported(self, dtype):
        if self.dtype in (None, dtype):
            return None
        return f"it computes in {self.dtype}, not {dtype}"


FAST, GENERAL = Implementation("fast", dtype="float32"), Implementation("general")
BOTH = (FAST, GENERAL)


def test_auto_is_the_first_that_supports_the_call():
    assert choose(BOTH, "auto", "float32") is FAST
    assert choose(BOTH, "auto", "float64") is GENERAL


def test_a_name_is_that_implementation_where_it_supports_the_call():
    assert choose(BOTH, "fast", "float32") is FAST
    assert choose(BOTH, "general", "float32") is GENERAL


def test_an_unsupported_request_names_the_reason_and_another_implementation():
    message = (
        "impl='fast' is not available: it computes in float32, not float64; "
        "use impl='auto' or 'general'"
    )
    with pytest.raises(ValueError, match=message):
        choose(BOTH, "fast", "float64")


def test_an_unknown_name_offers_the_nearest():
    assert checked(BOTH, "auto") == "auto"
    for function in (checked, lambda *arguments: choose(*arguments, "float32")):
        with pytest.raises(ValueError, match="impl='fsat' is unknown: did you mean 'fast'"):
            function(BOTH, "fsat")
