"""The actor-critic agent: its network, its rollouts and its losses."""
