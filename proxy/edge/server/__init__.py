"""The listening side: sockets, requests in, responses out."""
