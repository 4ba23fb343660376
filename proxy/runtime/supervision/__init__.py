"""The supervisor of serving processes, and how other programs learn its state."""
