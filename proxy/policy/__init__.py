"""May they: roles, policies, and the decision. Alone makes a `Decision`."""
