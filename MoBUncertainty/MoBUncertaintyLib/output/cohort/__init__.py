"""The table of many cases: one row each, worst first, as CSV and as a page that sorts."""
