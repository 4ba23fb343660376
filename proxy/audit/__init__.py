"""What happened: the durable, tamper-evident log of calls.

`format.record` specifies it, and `writing.journal` is the front of its writer.
"""
