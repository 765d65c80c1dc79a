"""Rewrite the recurrent layers of any model."""

from torch import nn

from gatecore.backends.torch.nn.cells import GRUCell, LSTMCell
from gatecore.backends.torch.nn.from_torch import from_torch
from gatecore.backends.torch.nn.layers import GRU, LSTM
from gatecore.mechanisms import Mechanism, mechanism

_mechanism = mechanism
_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}


def convert(
    module: nn.Module, mechanism: str | Mechanism = "UR", keep_weights: bool = False
) -> nn.Module:
    """Replace every LSTM, GRU, LSTMCell and GRUCell of torch inside a model, in place.

    Make optimizers afterwards: the parameters are new ones. Both biases stay trained, as the
    model's author knew them.

    Parameters
    ----------
    module : nn.Module
        If it is such a layer itself, the new layer is returned in its stead.
    mechanism : str or Mechanism
    keep_weights : bool
        Copy the weights of the slots that both have; else all weights are drawn anew.

    Returns
    -------
    nn.Module
        The same model, converted.

    Raises
    ------
    TypeError
        A subclass of those layers (a parametrized one, for example): it may compute anything.

    Examples
    --------
    >>> model = nn.Sequential(nn.LSTM(3, 8))
    >>> convert(model, mechanism="UR")
    Sequential(
      (0): LSTM(3, 8, mechanism='UR')
    )
    """
    mechanism = _mechanism(mechanism)
    known: dict[nn.Module, nn.Module] = {}
    for name, child in module.named_modules():
        if isinstance(child, tuple(_OURS)) and type(child) not in _OURS:
            raise TypeError(
                f"{name or 'module'} is a {type(child).__name__}, a subclass of torch's layer that "
                "may compute something else: replace it by hand, or remove its parametrizations"
            )
        if type(child) in _OURS:
            ours = _OURS[type(child)]
            known[child] = from_torch(ours, child, mechanism, keep_weights, two_biases=True)
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child in known:
                setattr(parent, name, known[child])
    return known.get(module, module)
