"""The tasks of the paper: their data, their models and their baselines."""
