"""The replacement of torch's recurrent layers in a model."""

from torch import nn

from gatecore import mechanisms
from gatecore.backends.torch.nn.cells import GRUCell, LSTMCell
from gatecore.backends.torch.nn.from_torch import from_torch
from gatecore.backends.torch.nn.layers import GRU, LSTM
from gatecore.mechanisms import Mechanism

_COUNTERPARTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}


def convert(
    module: nn.Module, mechanism: str | Mechanism = "UR", keep_weights: bool = False
) -> nn.Module:
    """Replace every LSTM, GRU, LSTMCell and GRUCell of torch in a model, in place.

    The new layers train both biases, as torch's do. Create optimizers afterwards: the parameters
    are new tensors.

    Parameters
    ----------
    module : nn.Module
    mechanism : str or Mechanism
        Of the new layers.
    keep_weights : bool
        Whether to copy the weights of the slots that the old and new layers have in common. All
        others are initialized as in a new layer; ``initialised`` of each new layer names them.

    Returns
    -------
    nn.Module
        ``module``; if it is such a layer itself, the new layer.

    Raises
    ------
    TypeError
        The model has a subclass of these layers, for example a parametrized one, which may compute
        something else.

    Examples
    --------
    >>> model = nn.Sequential(nn.LSTM(3, 8))
    >>> convert(model, mechanism="UR")
    Sequential(
      (0): LSTM(3, 8, mechanism='UR')
    )
    """
    mechanism = mechanisms.mechanism(mechanism)
    new: dict[nn.Module, nn.Module] = {}
    for name, old in module.named_modules():
        if type(old) in _COUNTERPARTS:
            kind = _COUNTERPARTS[type(old)]
            new[old] = from_torch(kind, old, mechanism, keep_weights, two_biases=True)
        elif isinstance(old, tuple(_COUNTERPARTS)):
            raise TypeError(
                f"{name or 'module'} is a {type(old).__name__}, a subclass of torch's layer that "
                "may compute something else: replace it by hand, or remove its parametrizations"
            )
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child in new:
                setattr(parent, name, new[child])
    return new.get(module, module)
