"""The mechanism in a module's state_dict, and the refusal of another mechanism's state.

A torch-compatible layer (mechanism "standard", "U" or "C") has the state_dict of torch's layer. Any
other has one more buffer, ``mechanism_code``: the signature as integers from 0 to 15, exact in any
floating point type, and restored by rounding after states were averaged. The state_dict's metadata
name the mechanism in both cases.
"""

import json
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from gatecore import mechanisms
from gatecore.backends.common.signature import (
    STANDARD_SIGNATURES,
    check_recorded,
    core_settings,
    decode,
    encode,
    signature,
)
from gatecore.mechanisms import Mechanism

KEY = "mechanism_code"
_RECORD = "_extra_state"  # JSON as bytes, in the states of earlier versions
_RECORD_VERSION = 1


def torch_compatible(core: str, mechanism: str | Mechanism) -> bool:
    """Whether the layer computes what that of ``torch.nn`` does, and has the same state."""
    return signature(core, mechanisms.mechanism(mechanism)) == STANDARD_SIGNATURES.get(core)


def has_values(tensor: Tensor) -> bool:
    """Whether the tensor's elements can be read: not on the meta device, nor in FakeTensorMode."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


class Stateful(nn.Module):
    """A module with a ``core`` and a ``mechanism``, which its state_dict records."""

    _version = 1
    core: str
    mechanism: Mechanism

    def _record_mechanism(self) -> None:
        """Set the buffer that records the mechanism, in the parameters' dtype and device."""
        if not self._torch_compatible:
            like = next(self.parameters())
            # accelerate puts parameters alone on the meta device, and expects values in buffers
            device = None if like.is_meta else like.device
            code = torch.tensor(self._code(), dtype=like.dtype, device=device)
            self.register_buffer(KEY, code)

    def _code(self) -> list[float]:
        return encode(self._signature)

    @property
    def _signature(self) -> str:
        return signature(self.core, self.mechanism)

    @property
    def _torch_compatible(self) -> bool:
        return self._signature == STANDARD_SIGNATURES.get(self.core)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        empty = next(self.parameters()).is_meta
        super()._apply(fn, recurse)
        if empty:  # to_empty leaves the values undefined
            self._record_mechanism()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        code = self._buffers.get(KEY)
        # libraries that load tensor by tensor may have put anything there
        if code is not None and has_values(code) and code.tolist() != self._code():
            self._record_mechanism()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1], {})
        metadata["mechanism"] = self.mechanism.name

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str,
                              local_metadata: dict[str, Any], *rest: Any) -> None:  # fmt: skip
        hooks = self._load_state_dict_pre_hooks
        for hook in hooks.values():  # now, since they may rename what is checked
            hook(state_dict, prefix, local_metadata, *rest)
        try:
            state = self._checked_state(state_dict, prefix, local_metadata)
        except ValueError as error:
            rest[-1].append(f"{prefix[:-1] or type(self).__name__}: {error}")
            return
        self._load_state_dict_pre_hooks = OrderedDict()
        try:
            super()._load_from_state_dict(state, prefix, local_metadata, *rest)
        finally:
            self._load_state_dict_pre_hooks = hooks

    def _checked_state(self, state_dict: dict[str, Any], prefix: str,
                       metadata: dict[str, Any]) -> dict[str, Any]:  # fmt: skip
        """The state with the exact code of the mechanism; ValueError if it is of another one."""
        state = dict(state_dict)
        code, record = state.pop(prefix + KEY, None), state.pop(prefix + _RECORD, None)
        names = (prefix + name for name, _ in self.named_parameters(recurse=False))
        like = code if code is not None else next((state[n] for n in names if n in state), None)
        if code is not None and not has_values(code):
            return state_dict
        if code is not None or record is not None or like is not None:
            self._check_signature(_decoded(code, record), metadata.get("mechanism"))
        if KEY in self._buffers and like is not None:
            state[prefix + KEY] = like.new_tensor(self._code())
        return state

    def _check_signature(self, recorded: str | None, saved: str | None) -> None:
        """Raise ValueError for a state of another signature, or without one."""
        if recorded is None and not self._torch_compatible:
            raise ValueError(self._needs_code())
        if recorded is not None:
            check_recorded(recorded, self._signature, self.mechanism, subject="the state_dict is",
                           module="layer", saved=saved)  # fmt: skip

    def _needs_code(self) -> str:
        kind, name = type(self).__name__, self.mechanism.name
        text = f"the state_dict records no mechanism, this {kind} has {name!r}: "
        if core_settings(self._signature.split()[0])[1]["layer_norm"]:
            return text + f"load one that a {kind} of gatecore with layer_norm=True saved"
        if self.core not in STANDARD_SIGNATURES:
            return text + f"load one that a {kind} of gatecore saved"
        return text + (
            f"for weights of torch.nn.{kind} use convert(module, mechanism={name!r}, "
            "keep_weights=True), which copies those that both have, or mechanism='standard'"
        )

    def _fx_node(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        """The call as one node of the graph that torch.fx traces."""
        tracer = args[0].tracer
        return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(f"{type(self).__name__} cannot be compiled by torch.jit.script: use "
                           "torch.export, or torch.compile")  # fmt: skip


def _decoded(code: Tensor | None, record: Tensor | None) -> str | None:
    """The signature in an entry of a state, if it has one."""
    name = _RECORD if code is None else KEY
    try:
        if code is not None:
            return decode(code.detach().double().tolist())
        if record is None:
            return None
        fields = json.loads(bytes(record.tolist()))
        if not isinstance(fields, dict) or "computation" not in fields:
            raise ValueError("it records no mechanism; load a state_dict that gatecore saved")
        if fields["version"] > _RECORD_VERSION:
            raise ValueError(f"it has version {fields['version']}: update gatecore")
        return str(fields["computation"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"the state_dict's {name} can't be read: {error}") from error
