"""Environments: vectorised in NumPy, with state that can be saved and restored."""


def register() -> None:
    """Register PassiveMatch-v0 and ActiveMatch-v0 with gymnasium, as importing ``.gym`` does."""
    import gymnasium

    single = f"{__name__}.gym:MatchEnv"
    vector = f"{__name__}.gym:MatchVectorEnv"
    for level in ("passive", "active"):
        name, settings = f"gatecore/{level.capitalize()}Match-v0", {"level": level}
        if name not in gymnasium.registry:
            gymnasium.register(name, single, vector_entry_point=vector, kwargs=settings)
