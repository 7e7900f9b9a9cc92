"""Checks of a reader's own code, a file a chapter; they need no pytest and import none."""
