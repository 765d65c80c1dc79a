"""Threads that run layers, calls that are refused, and forks, all at once; ends with status 0.

python stress.py [seconds]
"""

import dataclasses
import os
import sys
import threading
import time

import numpy as np

from gatecore.backends.native import layer
from tests.native.layers import SUPPORTED, Case, identical

CASES = [
    Case("lstm", "UR", 9, 5, 3, 38, resets=True),
    Case("gru", "OM", 4, 17, 1, 24, zoneout="masks"),
    Case("minimal", "standard", 21, 8, 2, 5),
]
WAYS = [(split, threads) for threads in range(1, 5) for split in ("batch", "columns", "auto")]
ALONE = [[case.results(SUPPORTED[-1], *way) for way in WAYS] for case in CASES]


def agrees(k, n):
    """Case ``k`` with its work divided in the ``n``-th way gives the bits that it gives alone."""
    way = n % len(WAYS)
    return identical(CASES[k].results(SUPPORTED[-1], *WAYS[way]), ALONE[k][way])


def raises(k):
    """Calls that end with an exception while others run: each one must raise."""
    case, errors = CASES[k], 0
    native, _ = case.native()
    scratch = np.empty(native.scratch_shape(True), np.float32)
    try:
        native.backward([np.zeros((1, 1, 1), np.float32)], (), scratch)
    except ValueError:
        errors += 1
    unknown = dataclasses.replace(native.layer_call)
    unknown.struct.instruction_set = 99
    try:
        unknown.forward()
    except RuntimeError:
        errors += 1
    return errors == 2


def work(k, end, failures):
    """Run layers until ``end``; a failure or an unexpected exception is put into ``failures``."""
    n = k
    try:
        while time.monotonic() < end and not failures:
            if not (agrees(k % len(CASES), n) and (n % 5 or raises(k % len(CASES)))):
                failures.append((k, n))
            if n % 7 == 0:
                layer.release()
            n += 1
    except BaseException as error:
        failures.append(error)
        raise


def in_a_child(n):
    """Fork in the middle of the others' calls, and run layers on new threads there."""
    child = os.fork()
    if not child:
        try:
            status = 0 if all(agrees(k, n + k) and raises(k) for k in range(len(CASES))) else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def main():
    end, failures = time.monotonic() + float((sys.argv[1:] or ["3"])[0]), []
    threads = [threading.Thread(target=work, args=(k, end, failures)) for k in range(4)]
    for thread in threads:
        thread.start()
    forks = 0
    while time.monotonic() < end and not failures:
        if hasattr(os, "fork") and not in_a_child(forks):
            failures.append(f"the child of fork {forks}")
        forks += 1
    for thread in threads:
        thread.join()
    print(forks, "forks")
    sys.exit(str(failures) if failures else 0)


if __name__ == "__main__":
    main()
