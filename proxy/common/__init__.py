"""What every layer may use. Nothing here knows of Callgate."""
