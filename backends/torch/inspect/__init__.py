"""The gates of models while they run."""
