"""Environments: vectorised in NumPy, with state that can be saved and restored."""


def register() -> None:
    """Register ``gatecore/PassiveMatch-v0`` and ``gatecore/ActiveMatch-v0`` with gymnasium.

    Importing :mod:`gatecore.tasks.environments.gym` does it.
    """
    import gymnasium

    for level in ("passive", "active"):
        name = f"gatecore/{level.capitalize()}Match-v0"
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="gatecore.tasks.environments.gym:MatchEnv",
                vector_entry_point="gatecore.tasks.environments.gym:MatchVectorEnv",
                kwargs={"level": level},
            )
