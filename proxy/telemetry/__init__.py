"""The operator's log and the metrics."""
