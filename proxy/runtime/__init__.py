"""One serving process and its life cycle, and the supervisor of several."""
