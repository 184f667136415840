"""The admin's pages where the tables are full: filling, visiting, judging."""
