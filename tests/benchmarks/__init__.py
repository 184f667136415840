"""How fast pm_celery is beside what it replaces: ``python -m tests.benchmarks --help``."""
