"""The parts of growth. Each gives a figure only when the check of its run has passed."""
