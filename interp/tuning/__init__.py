"""Fine-tuning on a perception task: the runner, its strategies, and the adapters that it writes."""
