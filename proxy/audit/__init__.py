"""What happened: the durable, tamper-evident invocation log. `record` has the format, `journal` the
writer's front.
"""
