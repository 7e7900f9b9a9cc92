"""The entry point of `python -m llm_scratch`, equal to the command `llm-scratch`."""

from __future__ import annotations

import sys

from llm_scratch.cli import main

if __name__ == "__main__":
    sys.exit(main())
