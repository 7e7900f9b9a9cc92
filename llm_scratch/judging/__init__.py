"""Answers compared: exact match, and a model as judge (book 7.8)."""
