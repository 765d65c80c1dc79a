"""Which CUDA graphs torch's layers keep, and how they are captured; no GPU is needed."""

import contextlib
import threading
from types import SimpleNamespace

import pytest
import torch

from gatecore.backends.torch.sequence import cuda_graphs


@pytest.fixture
def gpu(monkeypatch):
    """torch.cuda's streams and graphs, as far as a capture needs them."""
    fake = SimpleNamespace(stream=0, options=[], reserved=0, growth=0, replay=lambda: None)

    def graph(_, **options):
        fake.options.append(options)
        fake.reserved += fake.growth
        return contextlib.nullcontext()

    def stream(*_):
        return SimpleNamespace(cuda_stream=fake.stream, wait_stream=lambda _: None)

    fakes = {
        "is_current_stream_capturing": lambda: False,
        "current_stream": stream,
        "Stream": stream,
        "stream": lambda _: contextlib.nullcontext(),
        "device": lambda _: contextlib.nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: fake.replay()),
        "graph": graph,
        "memory_reserved": lambda: fake.reserved,
    }
    for name, value in fakes.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(cuda_graphs, "_GRAPHS", type(cuda_graphs._GRAPHS)())
    return fake


def run(size=5):
    """One call of a function of one tensor."""
    call = SimpleNamespace(cell="cell", return_cells=False, zoneout=None)
    tensors = [torch.ones(size)]
    return cuda_graphs._run("forward", call, tensors, lambda buffers: [buffers[0] * 2])


def test_other_threads_may_allocate_during_a_capture(gpu):
    (doubled,) = run()
    assert doubled.tolist() == [2.0] * 5
    (options,) = gpu.options
    assert options["capture_error_mode"] == "thread_local"


def test_a_capture_has_a_stream_of_its_device_which_torchs_own_need_not_be(gpu, monkeypatch):
    current, made = [], []

    @contextlib.contextmanager
    def device(one):
        current.append(one)
        yield
        current.pop()

    def stream():
        made.append(SimpleNamespace(cuda_stream=3, device=current[-1], wait_stream=lambda _: None))
        return made[-1]

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    run()
    assert gpu.options[0]["stream"] is made[-1]
    assert made[-1].device == torch.device("cpu")


def test_each_stream_and_precision_has_a_graph(gpu):
    run()
    run()
    assert len(gpu.options) == 1
    gpu.stream = 9
    run()
    assert len(gpu.options) == 2
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        run()
        run()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert len(gpu.options) == len(cuda_graphs._GRAPHS) == 3


def test_graphs_are_bounded_by_their_bytes_and_the_latest_stays(gpu, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "_MAX_BYTES", 1000)
    gpu.growth = 400  # and 20 of the input
    for size, kept in ((5, 1), (6, 2), (7, 2)):
        run(size)
        assert len(cuda_graphs._GRAPHS) == kept
    gpu.growth = 5000
    run(8)
    assert [graph.nbytes for graph in cuda_graphs._GRAPHS.values()] == [5032]


def test_a_graph_is_one_threads_from_its_inputs_to_its_results(gpu):
    taken = []

    def replay():
        other = threading.Thread(target=lambda: taken.append(cuda_graphs._LOCK.acquire(False)))
        other.start()
        other.join()

    gpu.replay = replay
    run()
    assert taken == [False]
