"""Without CuPy, or without a GPU, the backend says in one message what is missing."""

import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from gatecore.backends.cuda import interop, launch
from gatecore.cells import LSTM


class FakeCuda:
    """What `launch.require` asks of `cupy.cuda`; each answer can be made to fail."""

    def __init__(self, available=True, cublas=None):
        self._available, self._cublas = available, cublas
        self.nvrtc = types.SimpleNamespace(getVersion=lambda: (13, 0))

    def is_available(self):
        return self._available

    @staticmethod
    def Device():
        return types.SimpleNamespace(cublas_handle=0)

    @property
    def cublas(self):
        if self._cublas is not None:
            raise self._cublas
        return types.SimpleNamespace(getVersion=lambda handle: 130000)


def fake(monkeypatch, cuda):
    """A CuPy that consists of no more than this `cuda`."""
    module = types.SimpleNamespace(cuda=cuda, __version__="14.2.0")
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.fixture
def without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    launch.launcher.cache_clear()
    yield
    launch.launcher.cache_clear()


def test_without_cupy_the_message_tells_how_to_install_it(without_cupy):
    with pytest.raises(ImportError, match="needs CuPy, which is missing: pip install 'cupy-cuda"):
        launch.require()


def test_each_cupy_that_the_message_names_has_an_extra(without_cupy):
    with pytest.raises(ImportError) as error:
        launch.require()
    named = set(re.findall(r"cupy-cuda\d+x", str(error.value)))
    root = Path(__file__).resolve().parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    packages = [p for group in extras["optional-dependencies"].values() for p in group]
    assert named == {p.partition(">")[0] for p in packages if p.startswith("cupy")}


def test_loading_the_backend_without_cupy_is_that_error_and_nothing_else(tmp_path):
    program = (
        "import sys; sys.modules['cupy'] = None\n"
        "from gatecore import backends\n"
        "try: backends.load('cupy')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.startswith("the CuPy backend needs CuPy, which is missing")
    assert done.stderr == ""


def test_without_a_gpu_the_message_names_the_gpu(monkeypatch):
    fake(monkeypatch, FakeCuda(available=False))
    with pytest.raises(ImportError, match=r"needs an NVIDIA GPU: CuPy 14\.2\.0 is installed"):
        launch.require()


@pytest.mark.parametrize("error", [ImportError("no libcublas.so.13"), RuntimeError("driver")])
def test_without_the_cuda_libraries_the_message_names_them(monkeypatch, error):
    fake(monkeypatch, FakeCuda(cublas=error))
    with pytest.raises(ImportError, match=rf"cuBLAS and NVRTC.*{error}.*pip install"):
        launch.require()


def test_with_all_of_it_cupy_is_returned(monkeypatch):
    module = fake(monkeypatch, FakeCuda())
    assert launch.require() is module


def test_another_framework_can_ask_why_the_kernels_can_not_run(without_cupy):
    assert "needs CuPy" in interop.unsupported(LSTM(3, 4), (5, 2), "float32")
    with pytest.raises(ImportError, match="needs CuPy"), interop.on_stream(0, 0):
        pass
