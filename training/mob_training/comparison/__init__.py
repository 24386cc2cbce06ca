"""Many models and seeds side by side: tables, tests and figures."""
