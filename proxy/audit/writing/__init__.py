"""Writes a log: records, segments, checkpoints, recovery. Never imports `checking`."""
