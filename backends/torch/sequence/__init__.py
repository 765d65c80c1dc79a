"""A layer over a whole sequence as one operation, and its implementations."""
