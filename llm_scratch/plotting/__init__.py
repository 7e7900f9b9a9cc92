"""Pictures: each function returns a figure and writes nothing."""
