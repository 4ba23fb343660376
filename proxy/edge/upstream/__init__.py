"""The upstream side: connections to one scheduler, who waits for them, and what is shared."""
