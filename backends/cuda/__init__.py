"""CUDA kernels: one launch and one matrix product a time step.

``src`` holds the kernels, ``support`` what they cover, as data; ``source`` reads and names them,
``steps`` runs whole sequences with them. ``launch`` launches them through CuPy, ``interop`` on
another framework's stream. Nothing here imports CuPy before a launcher is made.
"""
