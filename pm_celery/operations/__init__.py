"""What people do to running processes, and what they ask: one function for each, for admin and shell alike.

Verbs lock what they change, do it in one transaction together with their entry among the interventions (who,
when, why), or raise ``Refused`` and do nothing. Questions read at most so many rows, however many there are.
"""
