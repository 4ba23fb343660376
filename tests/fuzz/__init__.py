"""Coverage-guided fuzzing of everything that parses input from outside.

A target is one file with one function, ``one(data)``. It takes any bytes, and raises when a
property is violated. ``python -m tests.fuzz`` drives the targets with atheris; `test_replay` runs the same
functions over the stored cases.
"""
