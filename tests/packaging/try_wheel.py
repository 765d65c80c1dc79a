"""Install a wheel into a fresh environment outside the repository and use it there.

    python try_wheel.py WHEEL

The environment holds the wheel and what it requires: NumPy and array-api-compat. No compiler is
within reach there.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from layout import FOLDERS

HERE = Path(__file__).parent
DATA = (".py", ".cu", ".cuh", ".j2", "empirical.json", "formulas.h", "py.typed")


def expected_files():
    """What the wheel must hold, from the folders."""
    return {
        "/".join((*package.split("."), *file.relative_to(folder).parts))
        for package, folder in FOLDERS.items()
        for file in folder.rglob("*")
        if file.is_file() and file.name.endswith(DATA)
    }


def check_contents(wheel):
    """Compare the wheel's files with the folders'; end with a message where they differ."""
    names = zipfile.ZipFile(wheel).namelist()  # a repaired wheel lists folders, too
    held = {name for name in names if ".dist-info/" not in name and not name.endswith("/")}
    native = {name for name in held if name.startswith("gatecore/backends/native/_native.")}
    compiler = any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))
    if compiler and not native and os.environ.get("GATECORE_NATIVE") != "0":
        sys.exit(f"{wheel.name}: lacks the native CPU library, though there is a C++ compiler")
    tags = wheel.stem.split("-")[-3:]  # of Python, of its binary interface, of the platform
    if native and (tags[:2] != ["py3", "none"] or tags[2] == "any"):
        sys.exit(f"{wheel.name}: one library serves all Pythons of a platform: py3-none-PLATFORM")
    held -= native
    if held != (expected := expected_files()):
        missing, extra = sorted(expected - held), sorted(held - expected)
        sys.exit(f"{wheel.name}: missing {missing}, not in the folders {extra}")
    print(f"{wheel.name}: {len(held)} files, as in the folders", *sorted(native), sep=", ")
    return bool(native)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel.resolve()
    native = check_contents(wheel)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        python = Path(folder) / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        # as on a machine without a compiler: the only commands are the environment's own
        bare = os.environ | {"PATH": str(python.parent), "CC": "none", "CXX": "none"}
        install = [python, "-m", "pip", "install", "-qq", wheel]
        subprocess.run(install, check=True, cwd=folder, env=bare)
        shutil.copy(HERE / "use_installed.py", folder)
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format=json"],
            check=True, cwd=folder, env=bare, capture_output=True, text=True,
        )  # fmt: skip
        names = {package["name"].lower() for package in json.loads(listed.stdout)}
        print("installed:", ", ".join(sorted(names - {"pip", "setuptools"})))
        expected = "native" if native else "reference"
        command = [python, "-W", "error", "use_installed.py", expected]
        subprocess.run(command, check=True, cwd=folder, env=bare)


if __name__ == "__main__":
    main()
