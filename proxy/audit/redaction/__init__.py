"""Redaction of a call's arguments: secrets become keyed hashes, long values lengths."""
