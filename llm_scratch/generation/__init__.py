"""Chapters 4.7 and 5.3: from logits to text."""
