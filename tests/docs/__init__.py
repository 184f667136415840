"""The documentation: its snippets run, its commands parse, its links lead somewhere, its tutorial works."""
