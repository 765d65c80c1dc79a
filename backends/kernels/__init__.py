"""Fused CUDA kernels for the explicit driver: one launch and one product a time step.

``*.cuh`` and ``kernels.cu`` hold the kernels, ``support`` what they cover, as data; ``source``
names and reads them, ``table`` is what a kernel is told about its sequence, ``steps`` runs whole
sequences with them. ``device`` launches them through CuPy, ``bridge`` on another framework's
stream. Nothing here imports CuPy: it is looked for when a GPU is asked for.
"""
