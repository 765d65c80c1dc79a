"""Games: a batch of them is stepped at once in NumPy."""


def register() -> None:
    """Make ``gatecore/PassiveMatch-v0`` and ``gatecore/ActiveMatch-v0`` known to gymnasium.

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
