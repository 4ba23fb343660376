"""Callgate: an identity-aware reverse proxy in front of workflow schedulers. Start reading at
`proxy.gate.pipeline`.
"""
