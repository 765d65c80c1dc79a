"""Explicit backpropagation through time over an array namespace.

``plan`` lays the slots out in memory, ``gating`` forms effective gates and their derivatives in
place, ``steps`` are the three cells forward and backward, ``sequence`` owns the time loop and the
pullback, ``workspace`` the memory, ``arguments`` what a caller may pass. ``layers`` and
``learner`` make a model of it that trains.
"""
