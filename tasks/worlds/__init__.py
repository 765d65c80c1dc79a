"""Games: a batch of them is stepped at once in NumPy."""
