"""The data that tasks and backends exchange: models, batches, agents, environments."""
