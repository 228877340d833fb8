"""Pure functions from a saved table to a matplotlib Figure or to HTML; nothing here reads a model."""
