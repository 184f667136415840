"""The shop whose orders go through the chaos."""
