"""Chapter 5 and appendix D: losses, evaluation, training loops."""
