"""Clients of other servers, for verbs of the command line; no serving process uses them."""
