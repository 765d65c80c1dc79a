"""Explicit backpropagation through time over an array namespace.

``plan`` lays the slots out in memory, ``gating`` forms effective gates and their derivatives in
place, ``steps`` are the three cells forward and backward and ``loop`` runs them over time;
``sequence`` is the driver with its pullback, ``workspace`` the memory, ``arguments`` what a caller
may pass. ``layers`` and ``learner`` make a model of it that trains.
"""
