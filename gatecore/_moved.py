"""Former import paths of public modules: each imports the module at its present path."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import CodeType, ModuleType

_TASKS = {
    "problems": "adding copying forgetting match",
    "training": "config trainer tensorboard",
    "cli": "compare",
}
MOVED = {
    "spec": "contracts.model",
    "memory": "contracts.memory",
    "agents": "contracts.agent",
    "worlds": "contracts.environment",
    "backends.kernels": "backends.cuda",
    "backends.kernels.bridge": "backends.cuda.interop",
    "backends.kernels.support": "backends.cuda.support",
    "backends.kernels.cpu": "backends.native",
    "backends.kernels.cpu.library": "backends.native.library",
    "backends.torch.reconstruction": "backends.torch.rl.actor_critic",
    **{
        f"backends.torch.{former}": f"backends.torch.{present}"
        for former, present in {
            "memory_cores.controller": "memory_cores.base",
            "nn.forget_gates": "nn.parameters",
            "nn.packed": "nn.layout",
            "nn.subclass": "nn.convert",
            "rl.reconstruction": "rl.actor_critic",
            "rl.truncated_rollout": "rl.rollout",
        }.items()
    },
    **{
        f"tasks.{module}": f"tasks.{room}.{module}"
        for room, modules in _TASKS.items()
        for module in modules.split()
    },
    "tasks.task": "tasks.problems.base",
    "tasks.pixels": "tasks.problems.pixels.task",
    "tasks.images": "tasks.problems.pixels.image_files",
    "tasks.language": "tasks.problems.language.task",
    "tasks.corpus": "tasks.problems.language.text_files",
    "tasks.encoding": "tasks.problems.language.encoding",
    "tasks.programs": "tasks.problems.programs.task",
    "tasks.games": "tasks.problems.small_agent_tasks",
    "tasks.agents": "tasks.problems.agent_task",
    "tasks.data": "tasks.problems.data_files",
    "tasks.worlds": "tasks.environments",
    "tasks.worlds.cartpole": "tasks.environments.cartpole",
    "tasks.worlds.chain": "tasks.environments.memory_chain",
    "tasks.worlds.gym": "tasks.environments.gym",
    "tasks.worlds.maps": "tasks.environments.maps",
    "tasks.worlds.match": "tasks.environments.match",
    "tasks.worlds.maze": "tasks.environments.t_maze",
    "tasks.worlds.pictures": "tasks.environments.animation",
    "tasks.worlds.players": "tasks.environments.scripted_policies",
    "tasks.worlds.saving": "tasks.environments.base",
    "tasks.runs": "tasks.training.run",
    "tasks.environment": "tasks.training.provenance",
    "tasks.sweeper": "tasks.sweeps.scheduler",
    "tasks.workers": "tasks.sweeps.workers",
    "tasks.report": "tasks.reports.report",
    "tasks.results": "tasks.reports.aggregate",
    "tasks.seeds": "tasks.reports.paired_statistics",
    "tasks.environments.colours": "tasks.environments.maps",
    "tasks.cli.errors": "tasks.cli.settings",
    "tasks.cli.report": "tasks.cli.analysis",
}

# ``from gatecore.tasks.worlds import players`` looks below the package's present path
for _name, _target in list(MOVED.items()):
    _package, _, _leaf = _name.rpartition(".")
    if _package in MOVED and (_alias := f"{MOVED[_package]}.{_leaf}") != _target:
        MOVED[_alias] = _target

_PACKAGES = {name.rpartition(".")[0] for name in MOVED}


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module by its former path; both paths give one module object."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if package != "gatecore" or rest not in MOVED:
            return None
        spec = importlib.util.find_spec(present(fullname))
        origin = spec.origin if spec else None
        return importlib.machinery.ModuleSpec(
            fullname, self, origin=origin, is_package=rest in _PACKAGES
        )

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
