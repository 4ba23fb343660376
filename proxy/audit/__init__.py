"""What happened: the durable record of every call. Alone makes a `Receipt`."""
