"""Evaluation of short programs."""
