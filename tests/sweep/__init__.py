"""The crash sweep: journeys of processes that are killed at every call to the database and the broker."""
