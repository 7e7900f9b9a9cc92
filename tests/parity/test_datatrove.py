"""Files that datatrove itself has written open equal: ids, ends of documents, order."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from llm_scratch.text.token_file import TokenFile, write_tokens
from llm_scratch.text.token_header import TokenFileError
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT

pytest.importorskip("datatrove", reason="pip install datatrove brings it")
pytest.importorskip("humanize", reason="pip install datatrove brings it")

TEXTS = [
    f"Text {number}: the cat, the hat \u6f22\u5b57.\n" * (number % 4) + "." for number in range(30)
]


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train("the cat and the hat; the text, the texts" * 3, 270)


@pytest.fixture(scope="module")
def tokenizer_file(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.to_tokenizer_json(path)
    return path


def tokenized(folder, tokenizer_file, ranks=2, **options):
    """Let datatrove write the files of some ranks, each with its share of the texts."""
    from datatrove.data import Document
    from datatrove.pipeline.tokens import DocumentTokenizer

    for rank in range(ranks):
        documents = [Document(text=text, id=str(n)) for n, text in enumerate(TEXTS)]
        share = documents[rank * len(TEXTS) // ranks : (rank + 1) * len(TEXTS) // ranks]
        step = DocumentTokenizer(str(folder), str(tokenizer_file), eos_token=END_OF_TEXT, **options)
        step.run(iter(share), rank=rank, world_size=ranks)
    return folder


@pytest.mark.parametrize("ranks", [1, 3])
def test_files_of_datatrove_hold_what_a_token_file_does(tmp_path, tokenizer, tokenizer_file, ranks):
    folder = tokenized(tmp_path / "ds", tokenizer_file, ranks, shuffle_documents=False)
    theirs = TokenFile(folder, tokenizer=tokenizer_file)
    ours = write_tokens(tmp_path / "ours", TEXTS, tokenizer, progress=False)
    assert np.asarray(theirs.tokens).tolist() == ours.tokens.tolist()
    assert np.asarray(theirs.documents).tolist() == ours.documents.tolist()
    assert theirs.fingerprint == ours.fingerprint
    theirs.verify()
    for a, b in zip(ours.split(), theirs.split(), strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()


def test_shuffled_files_have_their_own_order_and_ends(tmp_path, tokenizer, tokenizer_file):
    folder = tokenized(tmp_path / "ds", tokenizer_file, seed=5, max_tokens_per_file=200)
    files = sorted(folder.glob("*.ds"))
    assert len(files) > 2
    ids, ends = [], []
    for path in files:  # as datatrove's own reader takes them
        ends += (len(ids) + np.fromfile(f"{path}.index", dtype="<u8")).tolist()
        ids += np.fromfile(path, dtype="<u2").tolist()
    file = TokenFile(folder, tokenizer=tokenizer_file)
    assert np.asarray(file.tokens).tolist() == ids
    assert [*np.asarray(file.documents)[1:].tolist(), len(file)] == ends
    texts = [
        tokenizer.decode(ids[start:stop]) for start, stop in zip([0, *ends], ends, strict=False)
    ]
    assert sorted(texts) == sorted(f"{text}{END_OF_TEXT}" for text in TEXTS)


def test_an_empty_task_and_a_damaged_file(tmp_path, tokenizer, tokenizer_file):
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile

    folder = tokenized(tmp_path / "ds", tokenizer_file, shuffle_documents=False)
    before = len(TokenFile(folder, tokenizer=tokenizer_file))
    empty = TokenizedFile(str(folder), "00009_unshuffled.ds", tokenizer_name_or_path="x")
    empty.close()
    assert len(TokenFile(folder, tokenizer=tokenizer_file)) == before
    path = min(folder.glob("*.ds"))
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(TokenFileError, match="its documents end after"):
        TokenFile(folder, tokenizer=tokenizer_file)


def test_a_large_vocabulary_takes_32_bits_on_both_sides(tmp_path):
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile

    class Large:
        n_vocab = 100_000

        def encode(self, text):
            return [99_999]

        def decode(self, ids):
            return ""

    writer = TokenizedFile(str(tmp_path), "a.ds", token_size=4, save_final_metadata=True,
                           tokenizer_name_or_path="large")  # fmt: skip
    writer.write([99_999, 5], None)
    writer.write([70_000], None)
    writer.close()
    file = TokenFile(tmp_path / "a.ds", tokenizer=Large())
    assert (file.tokens.tolist(), file.documents.tolist()) == ([99_999, 5, 70_000], [0, 2])


NAMES = {"__name__": "__main__"}


def test_the_recipe_of_the_documentation_runs(tmp_path, monkeypatch, tokenizer_file):
    """The recipe for cleaning, on a small corpus with a text that comes twice and a short one."""
    from pages import CODE, ROOT, blocks

    pytest.importorskip("orjson", reason="pip install 'datatrove[io]' brings it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    (tmp_path / "raw").mkdir()
    long = [f"The tide of day {number} came in and went out again. " * 9 for number in range(6)]
    rows = [json.dumps({"text": text, "id": str(n)}) for n, text in enumerate([*long, "short"])]
    (tmp_path / "raw" / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (recipe,) = (
        block.code for block in blocks(ROOT / "docs" / "corpora.md")
        if block.language == CODE and "datatrove" in block.code
    )  # fmt: skip
    assert len([line for line in recipe.splitlines() if line.strip()]) <= 18
    exec(compile(recipe.replace('"gpt2"', repr(str(tokenizer_file))), "recipe", "exec"), NAMES)
    file = TokenFile(tmp_path / "tokens", tokenizer=tokenizer_file)
    assert len(file.documents) == len(long)
