"""A process instance in memory: rows without tables, and what the engine does with them."""
