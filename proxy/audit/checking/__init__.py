"""Checks a log. Shares `format` with the writer, and nothing else."""
