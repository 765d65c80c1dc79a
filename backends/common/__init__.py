"""Shared by all backends: validation, the packed layout, the buffer pool, the carried state."""
