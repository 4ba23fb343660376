"""`callgate demo`: a gate with real schedulers behind it."""
