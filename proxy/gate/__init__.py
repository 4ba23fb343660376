"""The pipeline: identify, decode, decide, record, forward."""
