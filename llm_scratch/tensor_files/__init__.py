"""Files of tensors: safetensors, pickles, TensorFlow's bundles, GGUF."""
