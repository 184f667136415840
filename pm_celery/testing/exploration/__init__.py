"""A small model checker for process managers."""
