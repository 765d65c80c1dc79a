"""Time per step of one recurrent layer on a GPU, beside cuDNN at equal precision.

    python tests/gpu/benchmark.py [--shapes pixel copy] [--repeats 10] [--out FOLDER]

Microseconds a time step, forward and backward apart, host time included: the median of whole
sequences between two waits for the GPU. Results go to gpu-layers.json and gpu-layers.md.
"""

import argparse
import datetime
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from run import PRECISIONS, ROOT, allow_tf32, importable

SHAPES = {  # time, batch, input, hidden
    "pixel": (784, 50, 1, 512),
    "copy": (520, 32, 10, 256),
    "copy, batch 128": (520, 128, 10, 256),
}
SLOW = ("torch, plain loop", "torch.compile of the step", "cupy, array operations")


def data(sizes, mechanism):
    """Parameters of a cell, inputs and the output's cotangent, float32."""
    import numpy as np

    from gatecore import cells

    rng = np.random.default_rng(0)
    steps, batch, inputs, hidden = sizes
    params = cells.LSTM(inputs, hidden, mechanism).init(rng)
    x = rng.standard_normal((steps, batch, inputs), np.float32)
    d_output = rng.standard_normal((steps, batch, hidden), np.float32)
    return {k: v.astype(np.float32) for k, v in params.items()}, x, d_output


def cupy_layer(kernels, mechanism, sizes):
    """(forward, backward, wait): backward takes what forward returns."""
    from tests.gpu.arrays import Cupy

    framework = Cupy(kernels=kernels)
    params, x, d = data(sizes, mechanism)
    params, x, d = (
        {k: framework.array(v) for k, v in params.items()},
        framework.array(x),
        framework.array(d),
    )

    def forward():
        return framework.backend.lstm(params, x, None, mechanism, kernels=kernels)[2]

    return forward, lambda pullback: pullback(d, wrt_x=False), framework.synchronize


def torch_layer(path, mechanism, sizes):
    """The torch backend, by one of its paths."""
    from tests.gpu.arrays import Torch

    framework = Torch(impl=path)
    params, x, d = data(sizes, mechanism)
    params, x, d = (
        {k: framework.leaf(v) for k, v in params.items()},
        framework.array(x),
        framework.array(d),
    )

    def forward():
        return framework.backend.lstm(params, x, None, mechanism, impl=path)[0]

    def backward(output):
        framework.torch.autograd.grad(output, list(params.values()), d)

    return forward, backward, framework.synchronize


def cudnn(sizes):
    """torch.nn.LSTM, which is cuDNN's on a GPU."""
    from tests.gpu.arrays import Torch

    framework = Torch()
    _, x, d = data(sizes, "standard")
    layer, x, d = framework.torch.nn.LSTM(*sizes[2:]).cuda(), framework.array(x), framework.array(d)
    return (
        lambda: layer(x)[0],
        lambda output: framework.torch.autograd.grad(output, list(layer.parameters()), d),
        framework.synchronize,
    )


def compiled(sizes):
    """The step of the UR-LSTM under torch.compile, in a Python loop, as users write it."""
    from gatecore import cells
    from tests.gpu.arrays import Torch

    framework = Torch()
    torch = framework.torch
    params, x, d = data(sizes, "UR")
    cell = cells.LSTM(*sizes[2:], "UR")
    params, x, d = (
        {k: framework.leaf(v) for k, v in params.items()},
        framework.array(x),
        framework.array(d),
    )
    step = torch.compile(lambda projected, state: cell.advance(params, projected, state))

    def forward():
        state = (x.new_zeros(sizes[1], sizes[3]),) * 2
        outputs = []
        for projected in cell.project(params, x).unbind():
            state = step(projected, state)
            outputs.append(state[0])
        return torch.stack(outputs)

    def backward(output):
        torch.autograd.grad(output, list(params.values()), d)

    return forward, backward, framework.synchronize


IMPLEMENTATIONS = {
    "cuDNN (torch.nn.LSTM)": cudnn,
    "cupy, fused kernels, standard": functools.partial(cupy_layer, "fused", "standard"),
    "cupy, fused kernels, UR": functools.partial(cupy_layer, "fused", "UR"),
    "cupy, fused kernels, OM": functools.partial(cupy_layer, "fused", "OM"),
    "torch, fused kernels, UR": functools.partial(torch_layer, "fused", "UR"),
    "torch, graph, UR": functools.partial(torch_layer, "graph", "UR"),
    "torch.compile of the step": compiled,
    "torch, plain loop": functools.partial(torch_layer, "plain", "UR"),
    "cupy, array operations": functools.partial(cupy_layer, "none", "UR"),
}


def timed(make, sizes, repeats):
    """Median microseconds a time step (forward, backward) over whole sequences."""
    forward, backward, wait = make(sizes)
    seconds = []
    for k in range(repeats + 3):  # run, record, replay once: warm-up
        wait()
        start = time.perf_counter()
        result = forward()
        wait()
        middle = time.perf_counter()
        backward(result)
        wait()
        if k >= 3:
            seconds.append((middle - start, time.perf_counter() - middle))
    return [1e6 * statistics.median(column) / sizes[0] for column in zip(*seconds, strict=True)]


def measure(shapes, repeats):
    """{shape: {implementation: [forward, backward] or why not}} at this process's precision."""
    from tests.gpu.arrays import Absent

    results = {}
    for shape in shapes:
        results[shape] = {}
        for name, make in IMPLEMENTATIONS.items():
            count = 2 if name in SLOW else repeats
            try:
                results[shape][name] = timed(make, SHAPES[shape], count)
            except Absent as absent:
                results[shape][name] = str(absent)
            except Exception as error:  # noqa: BLE001 - one implementation's failure is its result
                results[shape][name] = f"{type(error).__name__}: {str(error)[:200]}"
            print(shape, name, results[shape][name], file=sys.stderr, flush=True)
    return results


def machine():
    """Device, driver, versions and date."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    device, driver = "unknown", "unknown"
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        device, driver = answer.splitlines()[0].split(", ")
    except (OSError, subprocess.CalledProcessError, IndexError):
        pass
    versions = {}
    for name in ("numpy", "cupy", "torch"):
        module = sys.modules.get(name)
        versions[name] = None if module is None else module.__version__
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    return {"device": device, "driver": driver, "versions": versions, "date": date}


def markdown(result):
    """The table of a result."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"{result['device']}, driver {result['driver']}, {versions}, {result['date']}", "",
        "Microseconds a time step, forward / backward.", "",
    ]  # fmt: skip
    for precision, shapes in result["precisions"].items():
        lines += [f"**{precision}**", "", "| | " + " | ".join(shapes) + " |"]
        lines += ["|---|" + "---|" * len(shapes)]
        for name in IMPLEMENTATIONS:
            cells = [shapes[shape].get(name, "") for shape in shapes]
            shown = [c if isinstance(c, str) else f"{c[0]:.1f} / {c[1]:.1f}" for c in cells]
            lines.append(f"| {name} | " + " | ".join(shown) + " |")
        lines.append("")
    return "\n".join(lines)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--precision", choices=PRECISIONS, help="measure here, print JSON")
    return parser.parse_args()


def main():
    options = parsed()
    if options.precision:
        importable()
        allow_tf32(options.precision == "tf32")
        measured = measure(options.shapes, options.repeats)
        json.dump({**machine(), "shapes": measured}, sys.stdout)
        return
    result = {}
    for precision in PRECISIONS:
        command = [sys.executable, __file__, "--precision", precision]
        command += ["--repeats", str(options.repeats), "--shapes", *options.shapes]
        environment = {**os.environ, "CUPY_TF32": "1" if precision == "tf32" else "0"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        part = json.loads(done.stdout)
        measured = part.pop("shapes")
        result |= part
        result.setdefault("precisions", {})[precision] = measured
    numbers = [entry for shapes in result["precisions"].values() for s in shapes.values()
               for entry in s.values() if not isinstance(entry, str)]  # fmt: skip
    table = markdown(result)
    print(table)
    if not numbers:
        sys.exit("Nothing could be measured; no file was written.")
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    (options.out / "gpu-layers.json").write_text(text, encoding="utf-8")
    (options.out / "gpu-layers.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
