"""Real event logs, replayed through process managers."""
