"""Reads records back: queries, statistics, one call in full."""
