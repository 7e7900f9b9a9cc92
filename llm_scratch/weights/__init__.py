"""Weights: read from TensorFlow's, Hugging Face's, GGUF and the book's files, and exported (5.5)."""
