"""A run: its configuration, the training loop and its folder."""
