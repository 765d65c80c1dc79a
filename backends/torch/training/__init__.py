"""The learner of a ``ModelSpec``: backbone, optimizer and distributed training."""
