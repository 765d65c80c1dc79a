"""Runs: configuration, training loop, folder."""
