"""A process that trains a tiny run in child processes and kills them; see test_kills.

``python -m tests.tasks.killing BACKEND FOLDER at-random KILLS SEED`` kills each child after a
random while; ``... within-writes`` kills the k-th child before the k-th call by which files reach
the disk, until one lives to the end. Prints how many died.
"""

import os
import random
import signal
import sys
import time

from gatecore.tasks import train
from tests.tasks.tiny import tiny

CALLS = ("open", "fsync", "replace", "unlink", "ftruncate")


def config(backend):
    """A run with a checkpoint at every step, which spends much of its time in writing."""
    return tiny(backend=backend, checkpoint_every=1, log_every=1, evaluate_every=2)


def dies_before_call(number):
    """Make this process kill itself before its ``number``-th call that writes to the disk."""
    seen = 0

    def wrap(original):
        def call(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))


def child(backend, folder, number=None):
    """Start a process that continues the run."""
    if pid := os.fork():
        return pid
    if number is not None:
        dies_before_call(number)
    train(config(backend), folder, resume=True)
    os._exit(0)


def ended(pid):
    """Whether a child was not killed; any other error fails the test."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status == 0


def main(backend, folder, how, kills="0", seed="0"):
    died, rng = 0, random.Random(int(seed))
    while True:
        if how == "within-writes":
            pid = child(backend, folder, died + 1)
        else:
            pid = child(backend, folder)
            if died < int(kills):
                time.sleep(rng.uniform(0.0, 0.1))
                os.kill(pid, signal.SIGKILL)
        if ended(pid):
            break
        died += 1
    print(died)


if __name__ == "__main__":
    main(*sys.argv[1:])
