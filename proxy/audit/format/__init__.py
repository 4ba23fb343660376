"""The format that the writer and the checker of a log share. No I/O except reading a segment."""
