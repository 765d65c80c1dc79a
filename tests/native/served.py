"""The native library in another process, as one under emulation: the client of served.cpp."""

import atexit
import ctypes
import struct
import subprocess

from gatecore.backends.native import library
from gatecore.backends.native.call import CHECKPOINT, ArgumentsStruct

FUNCTIONS = ("best_instruction_set", "multiply_adds", "stride", "forward_scratch",
             "backward_scratch", "run_forward", "run_backward")  # fmt: skip
MINGRU = 3
POINTERS = [name for name, kind in ArgumentsStruct._fields_ if kind is ctypes.c_void_p]


def use(command, instruction_sets):
    """Let gatecore call the library that ``command`` serves; of these instruction sets."""
    served = ServedLibrary(command)
    atexit.register(served.close)
    library._loaded = lambda: (served, None)
    library.INSTRUCTION_SETS = instruction_sets


def buffer_bytes(layer, stride):
    """Bytes of each buffer by its field's name, as interface.h says; scratch memory has none."""
    steps, batch, hidden = layer.time, layer.batch, layer.hidden_size
    saved, states = (steps, steps + 1) if layer.saves else (1, 2)
    if layer.core == MINGRU:
        states = (steps + CHECKPOINT - 1) // CHECKPOINT
    state, sequence = batch * hidden, steps * batch * hidden
    floats = {
        "x": steps * batch * layer.input_size,
        "weight_ih": layer.rows * layer.input_size, "weight_hh": layer.rows * hidden,
        "bias": layer.rows, "bias_n": hidden,
        "zoneout_mask_hidden": sequence, "zoneout_mask_cell": sequence,
        "saved_gates": saved * batch * stride,
        "saved_hidden": states * state, "saved_cell": states * state,
    }  # fmt: skip
    floats |= {f"{part}_{name}": size for part, size in (
        ("initial", state), ("final", state), ("output", sequence), ("d_initial", state),
        ("d_final", state), ("d_output", sequence),
    ) for name in ("hidden", "cell")}  # fmt: skip
    floats |= {f"d_{name}": floats[name] for name in (
        "x", "weight_ih", "weight_hh", "bias", "bias_n",
    )}  # fmt: skip
    return {name: 4 * count for name, count in floats.items()} | {"resets": steps * batch}


class ServedLibrary:
    """Has the functions that ``library.library()`` has."""

    def __init__(self, command):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=-1
        )

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def gatecore_best_instruction_set(self):
        return int(self._result("best_instruction_set"))

    def gatecore_multiply_adds(self, instruction_set, rounds):
        return self._result("multiply_adds", struct.pack("<2q", instruction_set, rounds))

    def gatecore_stride(self, layer):
        return int(self._result("stride", packed(layer._obj)))

    def gatecore_forward_scratch(self, layer):
        return int(self._result("forward_scratch", packed(layer._obj)))

    def gatecore_backward_scratch(self, layer, wants_d_x):
        return int(
            self._result("backward_scratch", packed(layer._obj), struct.pack("<q", wants_d_x))
        )

    def gatecore_run_forward(self, layer, arguments):
        return self._run("run_forward", layer, arguments._obj)

    def gatecore_run_backward(self, layer, arguments):
        return self._run("run_backward", layer, arguments._obj)

    def _run(self, function, layer, arguments):
        lengths = buffer_bytes(layer._obj, self.gatecore_stride(layer))
        addresses = {name: getattr(arguments, name) for name in POINTERS if name != "scratch"}
        buffers = [(name, at, lengths[name]) for name, at in addresses.items() if at is not None]
        request = [packed(layer._obj), bytes(arguments), struct.pack("<q", len(buffers))]
        for name, address, length in buffers:
            offset = getattr(ArgumentsStruct, name).offset
            request += [struct.pack("<2q", offset, length), ctypes.string_at(address, length)]
        status = self._result(function, *request)
        for _, address, length in buffers:
            ctypes.memmove(address, self._answer(length), length)
        return int(status)

    def _result(self, function, *request):
        stream = self._process.stdin
        stream.write(struct.pack("<q", FUNCTIONS.index(function)))
        for part in request:
            stream.write(part)
        stream.flush()
        return struct.unpack("<d", self._answer(8))[0]

    def _answer(self, length):
        answer = self._process.stdout.read(length)
        if len(answer) < length:
            raise RuntimeError(f"the served library ended: status {self._process.wait()}")
        return answer


def packed(layer):
    """The layer and its row orders."""
    orders = (layer.input_rows, layer.state_rows)
    return bytes(layer) + b"".join(ctypes.string_at(at, 4 * layer.rows) for at in orders)
