"""Sockets: listeners and connections, upstream pools, TLS, health endpoints, HTTPS fetches."""
