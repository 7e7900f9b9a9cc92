"""Fine-tuning: classifiers, instructions, preferences, LoRA (book chapters 6, 7, appendix E)."""
