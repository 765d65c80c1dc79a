"""The native library against manual BPTT in float64: all cells, mechanisms, vectors."""

import dataclasses
import functools

import numpy as np
import pytest

from gatecore.backends.native import library
from tests.native.layers import SUPPORTED, Case, identical, worst
from tests.support import EVERY_CORE, GATINGS

if not library.available():
    pytest.skip(library.unsupported(), allow_module_level=True)

# (time, batch, inputs, hidden), the split and the threads: sizes that are multiples of nothing,
# no steps, no sequences, more than one chunk of steps, every height of a tile of rows, and groups
# of sequences whose weights' gradients each thread sums alone; sizes for packed weights and not.
SIZES = {
    "resets": ((7, 5, 3, 19), "batch", 2, {"resets": True, "cells": True}),
    "masks": ((9, 4, 2, 37), "columns", 2, {"zoneout": "masks", "cells": True}),
    "both": ((5, 13, 1, 18), "batch", 1, {"zoneout": "probabilities", "resets": True}),
    "one": ((1, 1, 1, 2), "auto", 2, {}),
    "one step": ((1, 7, 3, 23), "columns", 2, {"resets": True, "cells": True}),
    "one sequence": ((6, 1, 2, 35), "batch", 2, {"zoneout": "masks", "cells": True}),
    "long sequence": ((70, 1, 5, 67), "columns", 2, {"resets": True, "cells": True}),
    "few steps": ((4, 5, 3, 37), "columns", 3, {"zoneout": "masks", "resets": True}),
    "wide": ((4, 3, 17, 133), "columns", 3, {"resets": True}),
    "chunks": ((70, 8, 1, 17), "columns", 2, {"zoneout": "masks", "resets": True}),
    "groups": ((50, 13, 3, 19), "batch", 3, {"resets": True, "cells": True}),
    "groups, no steps": ((0, 9, 3, 5), "batch", 2, {}),
    "no steps": ((0, 2, 3, 5), "auto", 2, {}),
    "no sequences": ((3, 0, 2, 5), "auto", 1, {}),
}


@functools.cache
def case(core, gating, sizes):
    shape, split, threads, options = SIZES[sizes]
    options = options | {"cells": core == "lstm" and options.get("cells", False)}
    return Case(core, gating, *shape, **options), split, threads


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("core", EVERY_CORE)
@pytest.mark.parametrize("instruction_set", library.INSTRUCTION_SETS)
def test_outputs_states_and_gradients_equal_manual_bptt(instruction_set, core, gating):
    if instruction_set not in SUPPORTED:
        pytest.skip(f"this processor has no {instruction_set}")
    for sizes in SIZES:
        layer, split, threads = case(core, gating, sizes)
        error = worst(layer.results(instruction_set, split, threads), layer.expected)
        assert error < 2e-5, sizes


@pytest.mark.parametrize("split", ["batch", "columns"])
@pytest.mark.parametrize("core", EVERY_CORE)
@pytest.mark.parametrize("instruction_set", SUPPORTED)
def test_no_input_features_equal_features_of_zero(instruction_set, core, split):
    """Only the library accepts them: a Cell has at least one."""
    layer = Case(core, "UR", 6, 3, 1, 21, cells=core == "lstm")
    layer.arguments["x"][...] = 0
    expected = layer.results(instruction_set, split, 2)
    none, _ = layer.native(instruction_set, split, 2)
    none.layer_call = dataclasses.replace(none.layer_call)
    none.layer_call.struct.input_size = 0
    arguments = layer.arguments
    outputs, final = none.forward(arguments["x"], arguments["state"])
    scratch = np.full(none.scratch_shape(False), np.nan, np.float32)
    gradients, _, d_start = none.backward(
        arguments["d_output"], arguments["d_state"], scratch, False
    )
    assert worst([outputs, final, d_start], [expected[0], expected[1], expected[4]]) < 1e-6
    for name in set(gradients) - {"weight_ih"}:
        assert worst([gradients[name]], [expected[2][name]]) < 1e-6


@pytest.mark.parametrize("inputs", [3, 300])
@pytest.mark.parametrize("instruction_set", SUPPORTED)
def test_long_inner_sums_equal_manual_bptt(instruction_set, inputs):
    layer = Case("lstm", "UR", 2, 2, inputs, 521)
    assert worst(layer.results(instruction_set, "columns", 2), layer.expected) < 2e-5


@pytest.mark.parametrize("split", ["batch", "columns"])
@pytest.mark.parametrize("instruction_set", SUPPORTED)
def test_sums_over_a_large_batch_equal_manual_bptt(instruction_set, split):
    layer = Case("gru", "UR", 2, 1100, 2, 5)
    assert worst(layer.results(instruction_set, split, 2), layer.expected) < 2e-5


@pytest.mark.parametrize("batch", range(1, 18))
def test_every_batch_size_equals_manual_bptt(batch):
    layer = Case("gru", "standard", 2, batch, 2, 21)
    for instruction_set in SUPPORTED:
        assert worst(layer.results(instruction_set), layer.expected) < 2e-5


def shared_sums(layer, *arguments):
    """The layer's results, and apart from them those that are sums over what threads divide."""
    outputs, final, gradients, d_x, d_state, gate = layer.results(*arguments)
    if EVERY_CORE[layer.core].recurrent:
        return (outputs, final, d_x, d_state, gate), [gradients]
    return (outputs, final, d_state, gate), [gradients, d_x]


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("core", EVERY_CORE)
def test_threads_and_split_change_at_most_the_order_of_sums_that_threads_share(core, gating):
    """The weights' gradients are such sums; d_x is one where no step waits for another."""
    for sizes in ("both", "chunks", "few steps", "long sequence"):
        layer, _, _ = case(core, gating, sizes)
        alone, alone_sums = shared_sums(layer, None, "batch", 1)
        for split in ("batch", "columns"):
            for threads in (2, 3, 30):
                rest, sums = shared_sums(layer, None, split, threads)
                assert identical(rest, alone), (split, threads)
                assert worst(sums, alone_sums) < 3e-6, (split, threads)
                again = shared_sums(layer, None, split, threads)
                assert identical(again, (rest, sums)), (split, threads)


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("core", EVERY_CORE)
def test_inference_gives_the_same_outputs_and_states(core, gating):
    for sizes in ("resets", "masks", "both", "one", "long sequence", "no steps"):
        layer, split, threads = case(core, gating, sizes)
        _, saving = layer.native(None, split, threads)
        _, inference = layer.native(None, split, threads, saves=False)
        assert identical(inference, saving), sizes


@pytest.mark.parametrize("core", EVERY_CORE)
def test_without_the_gradient_of_x_the_others_are_the_same(core):
    layer, _, _ = case(core, "UR", "resets")
    _, _, gradients, d_x, d_state, _ = layer.results()
    *_, without, no_d_x, state_alone, _ = layer.results(wrt_x=False)
    assert no_d_x is None
    assert d_x is not None
    assert identical((gradients, d_state), (without, state_alone))


def test_equal_calls_give_equal_bits_and_leave_their_arguments_unchanged():
    layer, split, threads = case("lstm", "OM", "masks")
    before = {name: np.copy(value) for name, value in layer.arguments["params"].items()}
    assert identical(layer.results(None, split, threads), layer.results(None, split, threads))
    assert identical([layer.arguments["params"]], [before])


def assert_raises(message, **fields):
    """A call with some of the layer's sizes replaced, which must raise."""
    layer, _ = Case("lstm", "UR", 2, 2, 1, 3).native()
    call = dataclasses.replace(layer.layer_call)
    for name, value in fields.items():
        setattr(call.struct, name, value)
    for direction in (call.forward, call.backward):
        with pytest.raises(RuntimeError, match=f"run_{direction.__name__} failed: {message}"):
            direction()


def test_unsupported_sizes_raise_and_the_next_call_works():
    assert_raises("the processor lacks the instruction set", instruction_set=9)
    for name in ("hidden_size", "downsize", "threads", "core", "auxiliary", "activation", "time"):
        assert_raises("sizes or kinds that the library does not know", **{name: -1})
    assert_raises("sizes or kinds that the library does not know", downsize=2)
    layer = Case("lstm", "UR", 2, 2, 1, 3)
    assert worst(layer.results(), layer.expected) < 2e-5
