"""Chapters 3 and 4: attention, layers, the GPT model."""
