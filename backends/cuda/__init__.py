"""CUDA kernels: one launch and one matrix product a time step.

``src`` holds the kernels, ``support`` what they cover, as data; ``source`` reads and names them,
``steps`` runs whole sequences with them, ``recording`` states when one becomes a graph, and
``selftest`` tries them on a GPU. ``launch`` launches them through CuPy, ``interop`` on another
framework's stream. ``loader`` compiles and loads them without CuPy, by ``nvrtc`` and ``driver``;
``cublas`` multiplies. Nothing here imports CuPy, or loads a library of CUDA, before it is asked to.
"""
