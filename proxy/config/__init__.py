"""The settings: one TOML file, every key with a default or an error that names it."""
