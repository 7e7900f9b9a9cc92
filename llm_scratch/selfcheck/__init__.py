"""Checks of a reader's own code, one file per chapter; they do not need or import pytest."""
