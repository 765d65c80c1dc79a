"""Options of XLA for functions that run once: most of their time would be spent compiling them."""

QUICK = {"xla_backend_optimization_level": 0}
