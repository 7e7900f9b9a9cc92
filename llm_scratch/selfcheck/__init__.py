"""Checks of a reader's own code, one file per chapter; they need no pytest and import none."""
