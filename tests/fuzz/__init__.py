"""Coverage-guided fuzzing of everything that reads what somebody else has written.

Each target is one file with one function, ``one(data)``, which takes any bytes and raises when a
promise is broken. ``python -m tests.fuzz`` drives them with atheris; `test_replay` runs the same
functions over the cases that are kept.
"""
