"""The scenarios. Each gives a result only when the check of its run has passed."""
