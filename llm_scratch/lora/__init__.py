"""LoRA: layers, and adapters on disk (book appendix E)."""
