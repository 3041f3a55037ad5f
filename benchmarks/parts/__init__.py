"""One file for each part: what it measures, and the tables that show it."""
