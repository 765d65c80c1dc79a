"""Keras 3: recurrent layers, and cells for ``keras.layers.RNN``, with any gate mechanism.

They run on Keras' torch and JAX backends, through the functions of ``gatecore.backends.torch`` and
``gatecore.backends.jax``; ``keras.backend.backend()`` says which. Importing this package registers
the classes, so that ``keras.saving.load_model`` finds them.
"""

from gatecore.backends.keras.cells import GRUCell, LSTMCell, MinGRUCell, MinimalCell
from gatecore.backends.keras.layers import GRU, LSTM, MinGRU, Minimal

__all__ = [
    "GRU", "LSTM", "GRUCell", "LSTMCell", "MinGRU", "MinGRUCell", "Minimal", "MinimalCell",
]  # fmt: skip
