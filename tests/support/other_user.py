"""Another user and another group of this machine, to give files to."""

import os

import pytest

NOBODY = 65534
"""The uid of nobody, and the gid of nogroup, which has a member: it is private to no other user."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
