"""Luigi's scheduler on the wire: `/api/<method>` and the visualiser's pages."""
