"""Chapter 2: text, token ids, training windows."""
