"""The checks of `make gpu` as plain functions, which need no pytest.

Each check takes a framework of ``arrays`` and raises AssertionError where it finds an error. All
data are random, memory is poisoned with NaN first, and results are compared by ‖Δ‖/‖reference‖.
"""

import functools

import numpy as np

import gatecore
from gatecore.backends import load
from tests.gpu.arrays import Cupy, Reference, Torch, leaves, poison, random_case

# Whether a GPU's TF32 products round their operands to 11 bits or cut them is not documented. Cut,
# gradients err by up to 1.7e-3 in these checks; with the 8 bits of bfloat16, by 6e-3 to 1.3e-2
TOLERANCES = {"float32": 1e-5, "tf32": 3e-3, "bfloat16": 1e-2}
MECHANISMS = ("standard", "UR", "M", "UM", "O", "OR", "OM")
CORES = ("lstm", "gru", "minimal")
VARIANTS = ("plain", "resets", "masks", "probabilities")
SMALL = (19, 5, 3, 24)  # time, batch, input, hidden
ODD = (7, 3, 5, 338)  # no multiple of a warp, and more units than threads of a small block
PAPER = {"copy": (520, 32, 10, 256), "pixel": (784, 50, 1, 512)}
ULP = 2.0**-24


def relative(got, wanted):
    """‖Δ‖/‖wanted‖, and NaN or infinity as infinitely wrong."""
    if not np.isfinite(got).all():
        return np.inf
    return float(np.linalg.norm(got - wanted) / (np.linalg.norm(wanted) or 1.0))


def compare(got, wanted, tolerance):
    """Every array of two nests."""
    for (name, a), (_, b) in zip(leaves(got), leaves(wanted), strict=True):
        error = relative(np.asarray(a, np.float64), b)
        assert error < tolerance, f"{name}: relative error {error:.2e}, allowed {tolerance:.0e}"


def algebra(framework):
    """Both sides of a gate are those of NumPy in float64, to a few ulp."""
    logits = np.random.default_rng(0).uniform(-40, 40, (4, 256)).astype(np.float32)
    functions = {
        "sigmoid": (lambda x: gatecore.sigmoid(x[0]), 8),
        "cumax": (lambda x: gatecore.cumax(x[0] / 4), 80),
        "refine": (lambda x: gatecore.refine(*map(gatecore.sigmoid, x[:2])), 16),
        "master forget": (lambda x: gatecore.master(*map(gatecore.sigmoid, x))[0], 16),
        "master input": (lambda x: gatecore.master(*map(gatecore.sigmoid, x))[1], 16),
    }
    for name, (function, ulps) in functions.items():
        got = function(list(framework.array(logits)))
        for side, exact in zip(got, function(list(logits.astype(np.float64))), strict=True):
            scale = np.where(
                exact == 0, ULP**9, np.abs(exact)
            )  # cumax ends exactly: only 0 is right
            error = np.max(np.abs(framework.numpy(side) - exact) / scale)
            assert error < ulps * ULP, f"{name}: {error / ULP:.0f} ulp, allowed {ulps}"


def sequence(framework, core, name, sizes, variant="plain", tolerance=1e-5):
    """Outputs, last state and all gradients; run, recorded and replayed."""
    rng = np.random.default_rng(7)
    for _ in range(3):
        case = random_case(core, name, sizes, rng, variant)
        poison()
        compare(framework.sequence(case), Reference().sequence(case), tolerance)


def repeats(framework, core, name):
    """A replayed sequence repeats bit for bit."""
    case = random_case(core, name, ODD, np.random.default_rng(3))
    runs = [framework.sequence(case) for _ in range(4)][1:]
    for run in runs[1:]:
        for (where, a), (_, b) in zip(leaves(run), leaves(runs[0]), strict=True):
            assert np.array_equal(a, b), f"{where} differs between equal calls"


def saturation(framework, core, name):
    """Logits of ±1000 give finite numbers, those of the reference."""
    rng = np.random.default_rng(5)
    for scale in (1000.0, -1000.0):
        case = random_case(core, name, SMALL, rng)
        case.params["bias"] = np.round(case.params["bias"] * scale)
        compare(framework.sequence(case)[:2], Reference().sequence(case)[:2], 1e-5)


def ownership(framework):
    """Several pullbacks alive, called in any order, a second stream busy (CuPy's interface)."""
    cupy, layer = framework.cupy, framework.backend.lstm
    rng = np.random.default_rng(11)
    cases = [random_case("lstm", "UR", SMALL, rng) for _ in range(3)]
    other, noise = cupy.cuda.Stream(non_blocking=True), cupy.ones((2048, 2048), np.float32)
    with other:
        for _ in range(50):
            noise @ noise
    put = framework.array
    runs = [
        layer({k: put(v) for k, v in c.params.items()}, put(c.x), tuple(map(put, c.state)),
              c.mechanism) for c in cases
    ]  # fmt: skip
    for k in (1, 0, 2, 1, 0):
        case, (output, _, pullback) = cases[k], runs[k]
        wanted = Reference().sequence(case)
        d_params, d_x, _ = pullback(put(case.d_output), tuple(map(put, case.d_state)))
        compare([framework.numpy(output)], [wanted[0]], 1e-5)
        compare([framework.numpy(d_x)], [wanted[2][1]], 1e-5)
        got = {name: framework.numpy(value) for name, value in d_params.items()}
        compare(got, wanted[2][0], 1e-5)
    other.synchronize()


def learner(framework):
    """A Learner's first losses are the NumPy backend's."""
    spec = gatecore.ModelSpec(
        input="one_hot", input_size=6, output_size=6, hidden_size=32, zoneout=(0.5, 0.05), layers=2
    )
    tokens = np.random.default_rng(5).integers(0, 6, (2, 12, 4))
    batch = gatecore.Batch(tokens[0], tokens[1])
    settings = {"device": "cuda"} if framework.name == "torch" else {}
    trained, reference = framework.backend.Learner(spec, **settings), load("numpy").Learner(spec)
    for _ in range(5):
        got, wanted = (
            x.step(batch, learning_rate=1e-3, clip_norm=1.0) for x in (trained, reference)
        )
        for name, value in wanted.items():
            error = abs(got[name] - value) / max(1.0, abs(value))
            assert error < 2e-5, f"{name}: {got[name]} instead of {value}"


def low_precision(framework, core, name):
    """A torch layer in bfloat16, beside the float64 layer of the same rounded parameters."""
    torch, kinds = framework.torch, {"lstm": "LSTM", "gru": "GRU", "minimal": "Minimal"}
    layer = getattr(framework.backend, kinds[core])(3, 24, mechanism=name).to("cuda")
    layer = layer.to(torch.bfloat16)
    exact = getattr(framework.backend, kinds[core])(3, 24, mechanism=name).double()
    exact.load_state_dict({k: v.double().cpu() for k, v in layer.state_dict().items()})
    x = torch.randn(19, 5, 3).to(torch.bfloat16)
    got, wanted = layer(x.cuda())[0], exact(x.double())[0]
    compare([framework.numpy(got)], [framework.numpy(wanted)], TOLERANCES["bfloat16"])


def layer_and_input(framework):
    """A torch layer by the kernels, and an input."""
    torch = framework.torch
    torch.manual_seed(0)
    time, batch, inputs, hidden = SMALL
    layer = framework.backend.LSTM(inputs, hidden, mechanism="UR", impl="fused").to("cuda")
    return layer, torch.randn(time, batch, inputs, device="cuda")


def gradients(framework, layer, call, x):
    """Output and gradients of the parameters, by a call of the layer, as NumPy."""
    output = call(x)[0]
    found = framework.torch.autograd.grad(output.square().sum(), list(layer.parameters()))
    return [framework.numpy(value) for value in (output, *found)]


def side_stream(framework):
    """On another stream, run, recorded and replayed; its results are freed while it is busy."""
    torch, (layer, x) = framework.torch, layer_and_input(framework)
    wanted, stream = gradients(framework, layer, layer, x), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    for _ in range(3):
        with torch.cuda.stream(stream):
            got = gradients(framework, layer, layer, x)
            late = layer(x)[0]
        late.record_stream(torch.cuda.current_stream())
        torch.cuda.current_stream().wait_stream(stream)
        copy = late * 1
        del late
        framework.poison(8)
        compare([*got, framework.numpy(copy)], [*wanted, wanted[0]], 1e-5)


def captured(framework):
    """Within a CUDA graph of the caller, whose replays follow the input."""
    torch, (layer, x) = framework.torch, layer_and_input(framework)
    graph, other = torch.cuda.CUDAGraph(), torch.randn_like(x)
    with torch.no_grad():
        layer(x)
        with torch.cuda.graph(graph):
            output = layer(x)[0]
        for value in (x.clone(), other):
            x.copy_(value)
            graph.replay()
            compare([framework.numpy(output)], [framework.numpy(layer(value)[0])], 1e-6)


def compiled(framework):
    """Under torch.compile, which captures it."""
    torch, (layer, x) = framework.torch, layer_and_input(framework)
    wanted = gradients(framework, layer, layer, x)
    call = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    for _ in range(4):
        compare(gradients(framework, layer, call, x), wanted, 1e-5)


def precision_switch(framework):
    """TF32 where torch's own LSTM uses it, at once and in recorded sequences."""
    torch, (layer, x) = framework.torch, layer_and_input(framework)
    results = {}
    for allowed in (False, True, False):
        torch.backends.cudnn.allow_tf32 = allowed
        runs = [gradients(framework, layer, layer, x) for _ in range(3)]
        for other in runs[1:]:
            compare(other, runs[0], 1e-6)
        compare(results.setdefault(allowed, runs[0]), runs[0], 1e-6)
    error = relative(results[True][1], results[False][1])
    assert 1e-6 < error < TOLERANCES["tf32"], f"TF32 differs from float32 by {error:.1e}"


def checks(precision="float32"):
    """(name, framework's maker, function of it) for each check at a precision."""
    tolerance = TOLERANCES[precision]
    frameworks = {"cupy": Cupy, "cupy, array operations": functools.partial(Cupy, kernels="none")}
    frameworks["torch"] = functools.partial(Torch, impl="fused")
    frameworks["torch, graph"] = functools.partial(Torch, impl="graph")
    for label, make in frameworks.items():
        full = precision == "float32" and label != "torch, graph"
        if full:
            yield f"{label}: algebra", make, algebra
            yield f"{label}: learner", make, learner
        for core in CORES:
            for name in MECHANISMS:
                what = f"{label}: {core} {name}"
                for variant in VARIANTS if full else ("plain",):
                    run = functools.partial(
                        sequence, core=core, name=name, sizes=SMALL, variant=variant,
                        tolerance=tolerance,
                    )  # fmt: skip
                    yield f"{what} {variant}", make, run
                if full:
                    fixed = {"core": core, "name": name}
                    yield f"{what} odd sizes", make, functools.partial(sequence, sizes=ODD, **fixed)
                    yield f"{what} saturated", make, functools.partial(saturation, **fixed)
                    if label != "cupy, array operations":
                        yield f"{what} repeats", make, functools.partial(repeats, **fixed)
        if label != "cupy, array operations":
            for shape, sizes in PAPER.items():
                fixed = {"core": "lstm", "name": "UR", "sizes": sizes, "tolerance": tolerance}
                yield f"{label}: paper shape {shape}", make, functools.partial(sequence, **fixed)
    if precision == "float32":
        yield "cupy: several pullbacks alive", Cupy, ownership
        double = {"cupy": Cupy, "torch": functools.partial(Torch, impl="fused")}
        for label, make in double.items():
            for core in CORES:
                for name in MECHANISMS:
                    fixed = {"core": core, "name": name, "sizes": SMALL, "tolerance": 1e-12}
                    run = functools.partial(sequence, **fixed)
                    yield f"{label}: {core} {name} float64", functools.partial(make, "float64"), run
        for check in (side_stream, captured, compiled, precision_switch):
            yield f"torch: {check.__name__.replace('_', ' ')}", Torch, check
        for core in CORES:
            run = functools.partial(low_precision, core=core, name="UR")
            yield f"torch: {core} UR bfloat16", Torch, run
