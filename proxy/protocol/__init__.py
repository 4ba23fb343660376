"""What do they ask: the wire formats, and the catalogs of methods. Alone makes a `Call`."""
