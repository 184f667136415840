"""Chaos: orders flow while everything that can die dies, and a ledger shows that nothing was lost.

``python -m tests.chaos --help``; ``make chaos`` runs the long form, tests/test_chaos.py the short one.
docs/chaos.md says what is done to whom, and what was measured.
"""
