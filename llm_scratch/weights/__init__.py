"""GPT-2's weights: in from TensorFlow, Hugging Face and the book's files, and out again (5.5)."""
