"""Former import paths of public modules: each imports the module at its present path."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import CodeType, ModuleType

_TABLE = (  # former package, present package, modules: the name that stays, or former=present
    ("", "contracts", "spec=model memory agents=agent worlds=environment"),
    ("backends", "backends", "kernels=cuda kernels.cpu=native kernels.cpu.library=native.library"),
    ("backends.kernels", "backends.cuda", "bridge=interop support"),
    ("backends.cuda", "backends.cuda", "engine=steps kernel_arguments=steps"),
    ("backends.torch", "backends.torch.rl", "reconstruction=actor_critic"),
    ("backends.torch.memory_cores", "backends.torch.memory_cores", "controller=base"),
    ("backends.torch.nn", "backends.torch.nn", "forget_gates=parameters packed=layout"),
    ("backends.torch.nn", "backends.torch.nn", "subclass=convert"),
    ("backends.torch.rl", "backends.torch.rl", "reconstruction=actor_critic"),
    ("backends.torch.rl", "backends.torch.rl", "truncated_rollout=rollout"),
    ("backends.torch.sequence", "backends.torch.sequence", "signature=call autograd_function=run"),
    ("backends.torch.sequence", "backends.torch.sequence", "operator_fields=custom_op"),
    ("tasks", "tasks.problems", "adding copying forgetting match task=base agents=agent_task"),
    ("tasks", "tasks.problems", "games=small_agent_tasks data=data_files"),
    ("tasks", "tasks.problems.pixels", "pixels=task images=image_files"),
    ("tasks", "tasks.problems.language", "language=task corpus=text_files encoding"),
    ("tasks", "tasks.problems.programs", "programs=task"),
    ("tasks", "tasks.training", "config trainer tensorboard runs=run environment=provenance"),
    ("tasks", "tasks.sweeps", "sweeper=scheduler workers"),
    ("tasks", "tasks.reports", "report results=aggregate seeds=paired_statistics"),
    ("tasks", "tasks", "compare=cli.compare worlds=environments"),
    ("tasks.cli", "tasks.cli", "errors=settings report=analysis progress=results"),
    ("tasks.environments", "tasks.environments", "colours=maps"),
    ("tasks.worlds", "tasks.environments", "cartpole chain=memory_chain gym maps match"),
    ("tasks.worlds", "tasks.environments", "maze=t_maze pictures=animation saving=base"),
    ("tasks.worlds", "tasks.environments", "players=scripted_policies"),
)
MOVED: dict[str, str] = {}
for _former, _present, _modules in _TABLE:
    for _module in _modules.split():
        _old, _, _new = _module.partition("=")
        MOVED[f"{_former}.{_old}".lstrip(".")] = f"{_present}.{_new or _old}"

# ``from gatecore.tasks.worlds import players`` looks below the package's present path
for _name, _target in list(MOVED.items()):
    _package, _, _leaf = _name.rpartition(".")
    if _package in MOVED and (_alias := f"{MOVED[_package]}.{_leaf}") != _target:
        MOVED[_alias] = _target

_PACKAGES = {name.rpartition(".")[0] for name in MOVED}


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module by its former path; both paths give one module object."""

    def find_spec(self, fullname: str, path: object = None,
                  target: object = None) -> importlib.machinery.ModuleSpec | None:  # fmt: skip
        package, _, rest = fullname.partition(".")
        if package != "gatecore" or rest not in MOVED:
            return None
        spec = importlib.util.find_spec(present(fullname))
        origin = spec.origin if spec else None
        return importlib.machinery.ModuleSpec(fullname, self, origin=origin,
                                              is_package=rest in _PACKAGES)  # fmt: skip

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(present(spec.name))
        self._spec = module.__spec__  # the import system replaces it by ``spec``
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec

    def get_code(self, fullname: str) -> CodeType | None:
        """The code object for ``python -m`` with a former path."""
        spec = importlib.util.find_spec(present(fullname))
        return spec.loader.get_code(spec.name) if spec and spec.loader else None  # type: ignore[attr-defined]


def present(name: str) -> str:
    """The present path of a module's former one."""
    return f"gatecore.{MOVED[name.removeprefix('gatecore.')]}"


sys.meta_path.insert(0, Finder())  # before a present package finds a submodule by its path
