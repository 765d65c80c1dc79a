"""``python -m gatecore.tasks.cli``: the command line."""

import errno
import importlib
import io
import os
import sys

import gatecore


def run(module: str = "commands") -> None:
    """Run a module's ``main``: without a traceback for Ctrl-C, a full disk, or a closed pipe.

    What the terminal's encoding lacks is printed as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it was closed
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            if module == "commands" and sys.argv[1:] == ["--version"]:  # importing them takes long
                print(f"gatecore, version {gatecore.__version__}")
            else:
                importlib.import_module(f"gatecore.tasks.cli.{module}").main()
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except KeyboardInterrupt:  # while modules were imported: later ones are the command's
        print("Stopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python flushes at its end
        sys.exit(f"Error: the output cannot be written: {error.strerror}")


if __name__ == "__main__":
    run()
