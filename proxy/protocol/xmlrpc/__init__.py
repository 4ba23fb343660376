"""XML-RPC on the wire: before any XML-RPC server, and as a second door to luigid."""
