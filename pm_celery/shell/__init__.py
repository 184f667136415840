"""``manage.py pm``: the verbs and questions of ``pm_celery.operations`` from a shell.

A module for each family of subcommands: ``add(family)`` declares them, and a function for each is given a
``Shell`` and returns an exit code.
"""
