"""Text to token ids and back (book 2.1 to 2.5)."""
