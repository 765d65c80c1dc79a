"""Modules in the place of ``torch.nn.LSTM`` and ``nn.GRU``, and the layers as functions."""
