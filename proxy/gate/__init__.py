"""The pipeline: authenticate, decode, decide, record, forward."""
