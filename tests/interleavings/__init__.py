"""Interleavings: what many operations do to each other, in any order and two at a time.

``make test`` runs some hundred seeds; ``python -m tests.interleavings --help`` tells how to run more.
"""
