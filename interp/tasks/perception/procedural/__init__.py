"""One module a task; each ends in `TASK`, an instance, which is how the registry finds it."""
