"""Who is calling: credentials, tokens, issuers and their keys. Alone makes a `Principal`."""
