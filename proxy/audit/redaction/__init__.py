"""What a record keeps of a call's arguments: secrets as keyed hashes, long values as lengths."""
