"""What keeps the event loop free: large calls elsewhere, and a watch over what takes long."""
