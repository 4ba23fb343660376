"""Reports and exports made of what `reading` reads."""
