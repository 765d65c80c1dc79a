"""Follow the README in fresh environments, each with what it says to install and nothing else.

    python tests/packaging/try_readme.py TORCH [FLAG ...]

TORCH is the requirement of torch, which is installed first, and the flags are pip's for it: an
index may serve builds of several gigabytes. Training commands get the options ``SHORT``. ``make
run`` and ``make test``, which the README names too, are run as they are by ``.ci/run``.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SESSIONS = re.findall(r"^```pycon\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True) for line in re.findall(r"^\$ (.*)", README, re.MULTILINE)
]
SHORT = {"train": ("--steps", "2"), "sweep": ("--steps", "2", "--seeds", "1")}
RUN_SESSION = """
import doctest, sys
test = doctest.DocTestParser().get_doctest(sys.stdin.read(), {}, "README.md", "README.md", 0)
runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
sys.exit(bool(runner.run(test).failed))
"""


def copy_of_the_repository(folder):
    """The files that git has or would add, elsewhere: as a clone has them."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


class Environment:
    """A fresh virtual environment beside the clone."""

    def __init__(self, folder, clone):
        venv.create(folder, with_pip=True)
        self.bin, self.clone = folder / "bin", clone
        self.variables = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}"}

    def run(self, words, cwd, text=None):
        """Run a command; end with it if it fails."""
        print("$", *(w if "\n" not in w else "…" for w in map(str, words)), flush=True)
        done = subprocess.run(words, cwd=cwd, env=self.variables, input=text, text=True)
        if done.returncode:
            sys.exit(f"{self.bin.parent.name}: exit status {done.returncode}")

    def install(self, words):
        """Run a command of the README, in the clone."""
        self.run([self.bin / words[0], *words[1:], "-qq"], self.clone)


def sessions(framework):
    """The README's sessions that import this framework; with "" those that import none."""
    frameworks = {text: re.findall(r"import (torch|jax)", text) for text in SESSIONS}
    return "\n".join(t for t, names in frameworks.items() if set(names) == set(framework.split()))


def main():
    torch = sys.argv[1:]
    (tasks,) = (words for words in COMMANDS if words[-1] == ".[tasks]")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clone, elsewhere = folder / "clone", folder / "elsewhere"
        elsewhere.mkdir()
        copy_of_the_repository(clone)
        for words in (w for w in COMMANDS if w[0] == "pip" and w is not tasks):
            extra = words[-1].strip(".[]")
            environment = Environment(folder / (extra or "none"), clone)
            if extra == "torch":
                environment.install(["pip", "install", *torch])
            environment.install(words)
            environment.run(
                [environment.bin / "python", "-c", RUN_SESSION], elsewhere, sessions(extra)
            )
        environment = Environment(folder / "tasks", clone)
        environment.install(tasks)
        for words in (w for w in COMMANDS if w[0] == "gatecore"):
            if "match" in words:  # this and the next are with torch, as the README says
                environment.install(["pip", "install", *torch])
            environment.run(
                [environment.bin / "gatecore", *words[1:], *SHORT.get(words[1], ())], elsewhere
            )
    print("every installation, session and command of the README works")


if __name__ == "__main__":
    main()
