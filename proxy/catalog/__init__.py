"""The catalogs: which methods an upstream has, their permissions and their arguments.

Below `protocol` and `policy`, which both need it.
"""
