"""States that say which mechanism they belong to, and layers that refuse any other.

A layer that computes what torch's own does (standard, U, C) has exactly torch's state. Any other
adds one entry, ``_extra_state``: the mechanism's fields as JSON in a tensor of bytes, which every
format of tensors can hold. The metadata of a ``state_dict`` name the mechanism in both cases.
"""

import dataclasses
import json
from typing import Any

import torch
from torch import Tensor, nn

from gatecore.backends.torch.sequence.signature import TORCH_SIGNATURES, signature
from gatecore.mechanisms import Mechanism

VERSION = 1
_KEY = "_extra_state"


def encode(core: str, mechanism: Mechanism) -> Tensor:
    """The entry that says what a state belongs to."""
    said = {
        "version": VERSION,
        "computation": signature(core, mechanism),
        "mechanism": dataclasses.asdict(mechanism),
    }
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def decode(entry: Tensor) -> dict[str, Any]:
    """What :func:`encode` wrote.

    Raises
    ------
    ValueError
        The entry is not one, or of a later version than this library knows.
    """
    said = json.loads(bytes(entry.tolist()))
    if not isinstance(said, dict) or "computation" not in said:
        raise ValueError("it does not name a mechanism")
    if said["version"] > VERSION:
        raise ValueError(
            f"it has version {said['version']}, this library reads up to {VERSION}: update gatecore"
        )
    return said


def torch_compatible(core: str, mechanism: Mechanism) -> bool:
    """Whether such a layer computes what the layer of ``torch.nn`` does."""
    return signature(core, mechanism) == TORCH_SIGNATURES.get(core)


class Stateful(nn.Module):
    """A module with a ``core`` and a ``mechanism`` that its state names."""

    _version = VERSION
    core: str
    mechanism: Mechanism

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1], {})
        metadata["mechanism"] = self.mechanism.name
        if signature(self.core, self.mechanism) != TORCH_SIGNATURES.get(self.core):
            destination[prefix + _KEY] = encode(self.core, self.mechanism)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        entry = state_dict.get(prefix + _KEY)
        own = [name for name, _ in self.named_parameters(recurse=False)]
        if entry is None and not any(prefix + name in state_dict for name in own):
            missing_keys += [prefix + name for name in own if strict]
            return
        if refusal := self._refusal(entry):
            error_msgs.append(f"{prefix[:-1] or type(self).__name__}: {refusal}")
            return
        rest = {k: v for k, v in state_dict.items() if k != prefix + _KEY}
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _refusal(self, entry: Tensor | None) -> str | None:
        """Why a state with this entry (None: it has none) does not belong here."""
        mine = signature(self.core, self.mechanism)
        said, name = TORCH_SIGNATURES.get(self.core), "its own"
        if entry is not None:
            try:
                found = decode(entry)
            except ValueError as error:
                return f"the state's {_KEY} can't be read: {error}"
            said, name = found["computation"], found["mechanism"]["name"]
        if said == mine:
            return None
        kind = type(self).__name__
        if entry is None:
            source = f"torch.nn.{kind}" if said else "another kind of layer"
            return (
                f"the state names no mechanism, so it is taken for that of {source}; this layer "
                f"has mechanism {self.mechanism.name!r} and would compute something else with it. "
                + self._what_to_do()
            )
        return (
            f"the state belongs to mechanism {name!r} ({said}), this layer has "
            f"{self.mechanism.name!r} ({mine}): make the layer with mechanism={name!r}, or load "
            "weights that were trained with this one"
        )

    def _what_to_do(self) -> str:
        kind = type(self).__name__
        make = "from_lstm" if self.core == "lstm" else "from_gru"
        if self.core not in TORCH_SIGNATURES:
            return "Load a state that was saved by such a layer"
        return (
            f"Use {kind}.{make}(module, mechanism={self.mechanism.name!r}), which keeps what "
            f"carries over, or mechanism='standard'"
        )
