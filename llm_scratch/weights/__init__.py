"""Weights: read from TensorFlow, Hugging Face, GGUF and the book's files, and exported (5.5)."""
