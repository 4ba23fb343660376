"""The upstream side: connections to one upstream, the queue for them, and what calls share."""
