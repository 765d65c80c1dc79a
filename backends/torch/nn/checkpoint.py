"""The mechanism in a module's state_dict, and the refusal of another mechanism's state.

A torch-compatible layer (mechanism "standard", "U" or "C") has the state_dict of torch's layer. Any
other has one more entry, ``_extra_state``: the mechanism's fields as JSON in a tensor of bytes,
which every tensor format can hold. The state_dict's metadata name the mechanism in both cases.
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


def torch_compatible(core: str, mechanism: Mechanism) -> bool:
    """Whether the layer computes what that of ``torch.nn`` does, and has the same state."""
    return signature(core, mechanism) == TORCH_SIGNATURES.get(core)


def encode(core: str, mechanism: Mechanism) -> Tensor:
    """The entry that records a mechanism: JSON as uint8."""
    record = {
        "version": VERSION,
        "computation": signature(core, mechanism),
        "mechanism": dataclasses.asdict(mechanism),
    }
    return torch.tensor(list(json.dumps(record).encode()), dtype=torch.uint8)


def decode(entry: Tensor) -> dict[str, Any]:
    """The record that :func:`encode` wrote.

    Raises
    ------
    ValueError
        The entry is no such record, or of a later version than this library reads.
    """
    record = json.loads(bytes(entry.tolist()))
    if not isinstance(record, dict) or "computation" not in record:
        raise ValueError("it records no mechanism; load a state_dict that gatecore saved")
    if record["version"] > VERSION:
        raise ValueError(
            f"it has version {record['version']}, this library reads up to {VERSION}: "
            "update gatecore"
        )
    return record


class Stateful(nn.Module):
    """A module with a ``core`` and a ``mechanism``, which its state_dict records."""

    _version = VERSION
    core: str
    mechanism: Mechanism

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1], {})
        metadata["mechanism"] = self.mechanism.name
        if not torch_compatible(self.core, self.mechanism):
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
        names = [prefix + name for name, _ in self.named_parameters(recurse=False)]
        if entry is None and not any(name in state_dict for name in names):
            missing_keys += names if strict else []
        elif reason := self._unsupported(entry):
            error_msgs.append(f"{prefix[:-1] or type(self).__name__}: {reason}")
        else:
            rest = {k: v for k, v in state_dict.items() if k != prefix + _KEY}
            super()._load_from_state_dict(
                rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )

    def _unsupported(self, entry: Tensor | None) -> str | None:
        """Why a state with this entry, or without one, cannot be loaded; else None."""
        name, expected = self.mechanism.name, signature(self.core, self.mechanism)
        if entry is None:
            return None if torch_compatible(self.core, self.mechanism) else self._needs_entry()
        try:
            record = decode(entry)
        except ValueError as error:
            return f"the state_dict's {_KEY} can't be read: {error}"
        if record["computation"] == expected:
            return None
        recorded = record["mechanism"]["name"]
        return (
            f"the state_dict is of mechanism {recorded!r} ({record['computation']}), this layer "
            f"has {name!r} ({expected}): make the layer with mechanism={recorded!r}, or load "
            f"weights that were trained with {name!r}"
        )

    def _needs_entry(self) -> str:
        kind, name = type(self).__name__, self.mechanism.name
        text = f"the state_dict records no mechanism, this {kind} has {name!r}: "
        if self.core not in TORCH_SIGNATURES:
            return text + f"load one that a {kind} of gatecore saved"
        return text + (
            f"for weights of torch.nn.{kind} use convert(module, mechanism={name!r}, "
            "keep_weights=True), which copies those that both have, or mechanism='standard'"
        )
