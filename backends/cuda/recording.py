"""When a sequence is launched step by step, when it is recorded, and what is kept of it.

A sequence is thousands of small launches, each of which costs the host more than the GPU. The
first call of a shape runs them one by one, which compiles and loads whatever they need; the second
records them in a CUDA graph; from then on a sequence is one launch. What can't be recorded is run
one by one at every call.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

_LOGGER = logging.getLogger(__name__)
_MAX_SHAPES = 32
_RAN = "ran"  # once, one by one: the next call is recorded

Value = TypeVar("Value")


class Recent(OrderedDict[Any, Value]):
    """Values by shape, for the 32 shapes that were used last."""

    def obtain(self, shape: Any, make: Callable[[], Value]) -> Value:
        """The value of a shape, made if there is none."""
        value = self.get(shape)
        if value is None:
            value = self[shape] = make()
            if len(self) > _MAX_SHAPES:
                self.popitem(last=False)
        else:
            self.move_to_end(shape)
        return value


class Recorder:
    """Runs sequences; logs each reason why one can't be recorded once."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def run(
        self, graphs: dict[str, Any], direction: str, steps: Callable[[], None],
        record: Callable[[], Callable[[], None]],
    ) -> None:  # fmt: skip
        """Do the work of ``steps``: call it, or what ``record`` returned at the second call.

        ``graphs`` is what is known of a shape by direction, at first nothing.
        """
        graph = graphs.get(direction)
        if graph == _RAN:
            graph = graphs[direction] = self._recorded(record)
        graph() if graph else steps()
        graphs.setdefault(direction, _RAN)

    def _recorded(self, record: Callable[[], Callable[[], None]]) -> Callable[[], None] | None:
        try:
            return record()
        except Exception as error:  # noqa: BLE001 - nothing has run yet, so the steps still can
            reason = f"{type(error).__name__}: {error}"
            if reason not in self._logged:
                self._logged.add(reason)
                _LOGGER.warning("sequences run without a CUDA graph, because recording one raised "
                                "%s", reason)  # fmt: skip
            return None
