"""GATECORE_SERVED_BY=COMMAND runs these tests on the library that the command serves.

``make arm`` does so with one for 64-bit ARM, under emulation.
"""

import os
import shlex

from tests.native import served

if command := os.environ.get("GATECORE_SERVED_BY"):
    served.use(shlex.split(command), ("portable", "neon"))
