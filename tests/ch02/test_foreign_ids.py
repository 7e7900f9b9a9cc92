"""Ids of other programs, opened where they lie: datatrove's files, and files of ids alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from llm_scratch.cli import main
from llm_scratch.text.token_file import TokenFile, write_tokens
from llm_scratch.text.token_header import TokenFileError
from llm_scratch.tokenizers.bpe import BytePairTokenizer

END = 256
DOCUMENTS = [
    [*BytePairTokenizer([]).encode(f"text {number};" * (number % 5 + 1)), END]
    for number in range(30)
]


@pytest.fixture(scope="module")
def small():
    return BytePairTokenizer([])  # 256 bytes and the end of text


def write_ds(path, documents, name="byte-tokenizer", dtype="<u2"):
    """Write what datatrove's TokenizedFile writes."""
    np.array([i for ids in documents for i in ids], dtype=dtype).tofile(path)
    np.cumsum([len(ids) for ids in documents], dtype="<u8").tofile(f"{path}.index")
    if name:
        count = sum(map(len, documents))
        with open(f"{path}.metadata", "w", encoding="utf-8") as file:
            file.write(f"{name}|{np.dtype(dtype).itemsize}\n{count}\n{count} T")
    return path


def folder_of(path, *files, **options):
    path.mkdir()
    for number, documents in enumerate(files):
        write_ds(path / f"{number:05d}_00000_shuffled.ds", documents, **options)
    return path


def starts_of(documents):
    ends = np.cumsum([len(ids) for ids in documents]).tolist()
    return [0, *ends[:-1]]


@pytest.mark.parametrize("cuts", [[30], [7, 30], [1, 2, 2, 30]])
def test_ds_files_of_a_folder_are_one_corpus(tmp_path, small, cuts):
    files = [DOCUMENTS[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
    file = TokenFile(folder_of(tmp_path / "ds", *files), tokenizer=small)
    assert np.asarray(file.tokens).tolist() == [i for ids in DOCUMENTS for i in ids]
    assert np.asarray(file.documents).tolist() == starts_of(DOCUMENTS)
    assert (file.vocab_size, file.fingerprint) == (
        257,
        TokenFile(file.path, tokenizer=small).fingerprint,
    )
    assert file.tokenizer is small
    assert file.id_bytes[np.asarray(file.tokens)].sum() == sum(len(ids) - 1 for ids in DOCUMENTS)
    file.verify()


def test_ds_files_split_and_batch_like_a_token_file(tmp_path, small):
    texts = [small.decode(ids[:-1]) for ids in DOCUMENTS]
    ours = write_tokens(tmp_path / "t.bin", texts, small, progress=False)
    theirs = TokenFile(folder_of(tmp_path / "ds", DOCUMENTS[:11], DOCUMENTS[11:]), tokenizer=small)
    for a, b in zip(ours.split(0.6), theirs.split(0.6), strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        for step in range(9):
            pairs = zip(a.batch(0, step, 4, 8), b.batch(0, step, 4, 8), strict=True)
            assert all(ours.equal(theirs) for ours, theirs in pairs)


def test_one_ds_file_opens_alone_and_is_sent_by_its_place(tmp_path, small):
    path = write_ds(tmp_path / "a.ds", DOCUMENTS, name="org/small.json")
    small.save(tmp_path / "small.json")
    file = TokenFile(path, tokenizer=tmp_path / "small.json")
    data = pickle.dumps((file, file.split()[0]))
    assert len(data) < 1000
    again, part = pickle.loads(data)
    assert np.array_equal(again.tokens, file.tokens)
    assert np.array_equal(part.tokens, file.split()[0].tokens)


def test_ds_of_32_bits_are_those_of_a_large_vocabulary(tmp_path, small):
    class Large:
        n_vocab = 70000

        def encode(self, text):
            return [69999]

        def decode(self, ids):
            return ""

    path = write_ds(tmp_path / "a.ds", [[69999, 3], [5]], name="", dtype="<u4")
    file = TokenFile(path, tokenizer=Large())
    assert (file.tokens.dtype, file.tokens.tolist()) == (np.uint32, [69999, 3, 5])
    with pytest.raises(ValueError, match="ids of 32 bits, but a tokenizer of 257 ids has 16"):
        TokenFile(path, tokenizer=small)
    both = folder_of(tmp_path / "both", [[1]], name="")
    write_ds(both / "z.ds", [[1]], name="", dtype="<u4")
    with pytest.raises(TokenFileError, match="files of 16 and of 32 bits"):
        TokenFile(both, tokenizer=small)


def test_ds_without_a_tokenizer_names_the_option(tmp_path, small):
    path = write_ds(tmp_path / "a.ds", DOCUMENTS, name="gpt2")
    with pytest.raises(ValueError, match=r"does not hold its tokenizer; name it: --tokenizer gpt2"):
        TokenFile(path)
    with pytest.raises(FileNotFoundError, match=r"no file of ids at .*none\.ds"):
        TokenFile(tmp_path / "none.ds", tokenizer=small)


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "openai-community/gpt2-xl"])
def test_the_name_of_gpt2_is_compared_for_sure(tmp_path, small, tokenizer, name):
    path = write_ds(tmp_path / "a.ds", DOCUMENTS, name=name)
    assert len(TokenFile(path, tokenizer="gpt2")) == len(TokenFile(path, tokenizer=tokenizer)) > 100
    with pytest.raises(ValueError, match=f"tokenizer '{name}', got 'BytePairTokenizer'; use"):
        TokenFile(path, tokenizer=small)


def test_another_name_is_a_warning_and_gpt2_in_its_place_an_error(tmp_path, small):
    path = write_ds(tmp_path / "a.ds", DOCUMENTS, name="org/small.json")
    small.save(tmp_path / "small.json")
    small.save(tmp_path / "other.json")
    TokenFile(path, tokenizer=str(tmp_path / "small.json"))  # without a warning
    with pytest.warns(UserWarning, match=r"'org/small\.json'; make sure that '.*other\.json' is"):
        TokenFile(path, tokenizer=str(tmp_path / "other.json"))
    with pytest.raises(ValueError, match=r"tokenizer 'org/small\.json', got 'gpt2'"):
        TokenFile(path, tokenizer="gpt2")


def test_ds_files_of_two_tokenizers_are_no_corpus(tmp_path, small):
    folder = folder_of(tmp_path / "ds", DOCUMENTS, name="one")
    write_ds(folder / "z.ds", DOCUMENTS, name="two")
    with pytest.raises(TokenFileError, match=r"z\.ds was written with the tokenizer 'two'.*'one'"):
        TokenFile(folder, tokenizer=small)


def test_a_mask_of_losses_is_not_passed_over_in_silence(tmp_path, small):
    path = write_ds(tmp_path / "a.ds", DOCUMENTS)
    (tmp_path / "a.ds.loss").write_bytes(bytes(5))
    with pytest.warns(UserWarning, match=r"a\.ds\.loss is not read: every token is learned"):
        TokenFile(path, tokenizer=small)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-2]), "its documents end after .* ids, of 2 or 4"),
        (lambda p: p.write_bytes(p.read_bytes() + b"\0\0"), "its documents end after"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "its documents end after"),
        (lambda p: p.write_bytes(b""), "its documents end after"),
        (lambda p: index(p).write_bytes(index(p).read_bytes()[:-3]), "not a multiple of 8"),
        (lambda p: index(p).write_bytes(index(p).read_bytes()[:-8]), "its documents end after"),
        (lambda p: index(p).write_bytes(b""), "its documents end after 0 ids"),
        (lambda p: index(p).unlink(), r"has no a\.ds\.index beside it; .* --bare-ids"),
        (lambda p: swap_ends(p), "a document ends before the previous one"),
        (lambda p: p.with_name("a.ds.metadata").write_bytes(b"\xff\xfe\n"), "metadata is damaged"),
    ],
)
def test_damaged_ds_files_are_refused_at_once(tmp_path, small, damage, message):
    path = write_ds(tmp_path / "a.ds", DOCUMENTS)
    damage(path)
    with pytest.raises(TokenFileError, match=message):
        TokenFile(path, tokenizer=small)


def index(path):
    return path.with_name(f"{path.name}.index")


def swap_ends(path, one=3, other=9):
    ends = np.fromfile(index(path), dtype="<u8")
    ends[[one, other]] = ends[[other, one]]
    ends.tofile(index(path))


def test_an_id_outside_the_vocabulary_is_seen_where_it_is_read(tmp_path, small):
    path = write_ds(tmp_path / "a.ds", [*DOCUMENTS, [300, 5]])
    file = TokenFile(path, tokenizer=small)
    with pytest.raises(TokenFileError, match="token id 300 is outside a vocabulary of 257"):
        file.verify()
    with pytest.raises(TokenFileError, match="token id 300 is outside"):
        list(file.whole.rows_in_order(16, 4))


def test_ends_that_are_too_many_to_look_through_are_left_to_verify(tmp_path, small, monkeypatch):
    monkeypatch.setattr("llm_scratch.text.foreign_ids.READ_AT_ONCE", 8)
    monkeypatch.setattr("llm_scratch.text.foreign_ids.BLOCK", 4)
    path = write_ds(tmp_path / "a.ds", DOCUMENTS)
    TokenFile(path, tokenizer=small).verify()
    swap_ends(path, 3, 4)  # in two blocks
    with pytest.raises(TokenFileError, match="a document ends before the previous one"):
        TokenFile(path, tokenizer=small).verify()


def test_bare_ids_open_where_they_lie(tmp_path, tokenizer):
    ids = tokenizer.encode("The tide comes in. The clock counts it. " * 9)
    path = tmp_path / "train.bin"
    np.array(ids, dtype=np.uint16).tofile(path)
    file = TokenFile(path, tokenizer="gpt2", dtype="uint16")
    assert file.tokens.tolist() == ids
    assert isinstance(file.tokens, np.memmap)
    assert file.documents.tolist() == [0]
    assert len(file.split()[1]) == len(ids) - int(0.9 * len(ids))
    assert np.array_equal(
        pickle.loads(pickle.dumps(file.split()[0])).tokens, ids[: int(0.9 * len(ids))]
    )
    file.verify()
    np.save(tmp_path / "train.npy", np.array(ids))
    named = TokenFile(tmp_path / "train.npy", tokenizer="gpt2")
    assert named.tokens.tolist() == ids
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(ids)
    (tmp_path / "llm.bin").write_bytes(header.tobytes() + path.read_bytes())
    assert TokenFile(tmp_path / "llm.bin", tokenizer="gpt2", dtype="uint16").tokens.tolist() == ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "uint16"}, "does not hold its tokenizer; name it: --tokenizer gpt2"),
        ({"dtype": "int8", "tokenizer": "gpt2"}, "dtype='int8' must be one of uint16, uint32"),
        ({"dtype": "uint32", "tokenizer": "gpt2"}, "not a whole number of ids of 4 bytes"),
        ({"tokenizer": "gpt2"}, "is not a token file; .* --dtype uint16 --tokenizer gpt2 opens"),
    ],
)
def test_bare_ids_need_type_and_tokenizer(tmp_path, options, message):
    np.array([5000, 600, 7], dtype=np.uint16).tofile(tmp_path / "train.bin")
    with pytest.raises(ValueError, match=message):
        TokenFile(tmp_path / "train.bin", **options)


def test_negative_ids_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([5, -1, 7]))
    with pytest.raises(ValueError, match=r"a\.npy: token id -1 is outside a vocabulary of 50257"):
        TokenFile(tmp_path / "a.npy", tokenizer="gpt2")


def test_a_token_file_knows_its_type_and_its_tokenizer(tmp_path, small):
    path = tmp_path / "t.bin"
    write_tokens(path, "abc", small, progress=False)
    with pytest.raises(
        ValueError, match="names the type of its ids itself; leave dtype='uint16' out"
    ):
        TokenFile(path, dtype="uint16")
    assert len(TokenFile(path, tokenizer=small)) == 3
    with pytest.raises(ValueError, match=r"was made with the tokenizer .*\.\.\., got "):
        TokenFile(path, tokenizer="gpt2")


SMALL = ["--preset", "tiny", "--steps", "4", "--context-length", "8", "--emb-dim", "16",
         "--n-heads", "2", "--n-layers", "1", "--micro-batch", "4", "--sample-every", "0",
         "--log-every", "0", "--device", "cpu"]  # fmt: skip


def test_commands_open_the_ids_of_others(tmp_path, small, capsys):
    small.save(tmp_path / "small.json")
    folder = folder_of(tmp_path / "ds", DOCUMENTS[:9], DOCUMENTS[9:], name="small.json")
    bare = tmp_path / "train.bin"
    np.array([i for ids in DOCUMENTS for i in ids], dtype=np.uint16).tofile(bare)
    for data, options in ((folder, []), (bare, ["--dtype", "uint16"])):
        out = tmp_path / f"run-{data.name}"
        words = ["pretrain", "--data", str(data), "--out", str(out), *options, *SMALL]
        assert main(words) == 2
        assert "name it: --tokenizer" in capsys.readouterr().err
        assert main([*words, "--tokenizer", str(tmp_path / "small.json")]) == 0
        capsys.readouterr()
        assert main(["eval", str(out), "--data", str(data), *options]) == 0  # the model's tokenizer
        said = capsys.readouterr().out
        assert said.startswith("part           val, ")
        assert "bits per byte  unknown" not in said
    words = ["prepare", "--verify", "--out", str(folder)]
    assert main(words) == 2
    assert "name it: --tokenizer small.json" in capsys.readouterr().err
    assert main([*words, "--tokenizer", str(tmp_path / "small.json")]) == 0
    assert capsys.readouterr().out == f"{folder}: whole, every id is in the vocabulary\n"
