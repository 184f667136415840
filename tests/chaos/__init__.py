"""Chaos: orders flow while everything that can die dies, and a ledger shows that nothing was lost.

``python -m tests.chaos --help``; ``make chaos`` runs the long form, tests/test_chaos.py the short one.
docs/understand/chaos.md says what is done to whom, and what was measured.

What was broken in the package to see it fail, each in the short form:

- the done mark written after the commit of the effect instead of with it: effects, and the events that they
  publish, were there twice;
- the tick switched off (``--no-tick``): orders never ended, so lost, pending and late;
- an instance's open messages read in any order (``ORDER BY random()``): out of order, and lost where the end
  came too soon;
- the instances' row lock and the unique number of transitions both removed: doubled, out of order, numbers
  twice. Without the lock alone it stays clean, for that constraint refuses the second of two transitions.
"""
