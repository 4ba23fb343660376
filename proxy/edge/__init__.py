"""Everything with a socket: the listeners, the upstream leg, TLS, probes. Alone imports aiohttp."""
