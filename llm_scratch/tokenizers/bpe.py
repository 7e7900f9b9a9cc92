"""Byte-pair encoding from scratch: GPT-2's tokenizer, trained and run in plain Python.

Read it in this order: `bpe_pieces` splits a text into words and punctuation, `bpe_training` learns
which bytes belong together, `bpe_vocabulary` numbers the tokens, `bpe_merging` applies the learned
merges, and this file combines them. `bpe_files` and `tokenizer_json` save and load, `bpe_display`
shows, and `bpe_foreign` holds what vocabularies from elsewhere need beyond that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import chain
from operator import index
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llm_scratch.files import PathLike, parse_json, read_bytes, write_bytes
from llm_scratch.tokenizers import bpe_files, gguf_tokenizer, tokenizer_json
from llm_scratch.tokenizers.any_tokenizer import Special, encode, fingerprint
from llm_scratch.tokenizers.bpe_display import MergeStep, TokenDisplay, merge_steps
from llm_scratch.tokenizers.bpe_foreign import ForeignBPE
from llm_scratch.tokenizers.bpe_merging import PieceCache
from llm_scratch.tokenizers.bpe_pieces import Texts, find_pieces, split_specials
from llm_scratch.tokenizers.bpe_splitting import Splitting
from llm_scratch.tokenizers.bpe_training import learn_merges
from llm_scratch.tokenizers.bpe_vocabulary import (
    Merges,
    SpecialTokens,
    Vocabulary,
    build_vocabulary,
    recover_merges,
)
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN, load_gpt2_ranks
from llm_scratch.tokenizers.normal_form import nfc
from llm_scratch.tokenizers.simple import END_OF_TEXT
from llm_scratch.tokenizers.tiktoken_methods import TiktokenMethods, as_ids, check_text

if TYPE_CHECKING:
    import tiktoken


class BytePairTokenizer(TiktokenMethods):
    """A byte-level BPE: text -> ids -> the same text, for every text that UTF-8 can encode.

    Every byte is a token, so no text is ever unknown. Merges make longer tokens out of pairs.
    A piece of text that is itself a token becomes that token.

    Args:
        merges: pairs of tokens in the order of learning, as bytes: [(b"t", b"h"), (b"th", b"e")].
        special_tokens: names, which get the ids after the merges, or {name: id}; the other tokens
            then get the free ids, in order.
        pattern: the regular expression that splits a text into pieces.
        name: the tokenizer's name.
        added_words: {word: id} of words that become one id wherever they occur, in user input too.
            Unlike special tokens, they have no meaning of their own.

    Raises:
        ValueError: if a merge uses a token that does not exist yet, or something is given twice.

    Source:
        Book 2.5 and its bonus on BPE; Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019.
    """

    def __init__(
        self,
        merges: Merges,
        special_tokens: SpecialTokens = (END_OF_TEXT,),
        pattern: str = GPT2_PATTERN,
        name: str = "bpe",
        added_words: Mapping[str, int] | None = None,
    ) -> None:
        if not isinstance(name, str) or not isinstance(pattern, str):
            raise TypeError(f"name and pattern must be str, got {name!r} and {pattern!r}")
        find_pieces("", pattern)  # raises if it is not a regular expression
        vocabulary = build_vocabulary(list(merges), special_tokens, added_words)
        self._set_up(name, vocabulary, Splitting.by(pattern))

    def _set_up(
        self,
        name: str,
        vocabulary: Vocabulary,
        splitting: Splitting,
        foreign: ForeignBPE | None = None,
    ) -> None:
        self.name = name
        self._vocabulary = vocabulary
        self._splitting = splitting
        self._foreign = foreign
        self._mergeable_ranks = vocabulary.ordinary
        self._special_tokens = vocabulary.special
        self._added_words = vocabulary.words
        self._added_ids = {**self._special_tokens, **self._added_words}
        for end, i in (foreign.marks if foreign is not None else {}).items():
            setattr(self, end, i)
        self._normal_form = foreign is not None and foreign.nfc
        numbers = vocabulary.ordinary, vocabulary.pairs, vocabulary.made
        self._cache = PieceCache(*numbers, whole=foreign is None or foreign.whole)

    # Constructors. All of them raise TokenizerFileError for a file that cannot be read.

    @classmethod
    def train(
        cls,
        texts: Texts,
        vocab_size: int,
        special_tokens: SpecialTokens = (END_OF_TEXT,),
        pattern: str = GPT2_PATTERN,
        *,
        name: str = "bpe",
        progress: bool = True,
    ) -> BytePairTokenizer:
        """Learn a vocabulary by repeatedly merging the most frequent pair of tokens into a token.

        Among equally frequent pairs, the one with the lowest ids wins, on every machine. With
        GPT-2's pattern, memory grows only with the number of distinct words.

        Args:
            texts: a text, a `Path` (UTF-8, read in blocks), or several of them.
            vocab_size: 256 bytes + merges + special tokens. If the texts have too few pairs,
                learning stops early with a warning; `n_vocab` is the true size.
            special_tokens: as above; they are cut out of the texts first.
            pattern: as above.
            name: as above.
            progress: show a progress bar if it takes longer than a second.

        Raises:
            ValueError: if there is no text, or no room for the bytes and the special tokens.
        """
        merges = learn_merges(texts, vocab_size, special_tokens, pattern, progress=progress)
        return cls(merges, special_tokens, pattern, name)

    @classmethod
    def gpt2(cls) -> BytePairTokenizer:
        """Return GPT-2's tokenizer, from the table that ships with this package."""
        return cls(_gpt2_merges(), name="gpt2")

    @classmethod
    def load(
        cls, path: PathLike, ends: Mapping[str, int] = MappingProxyType({})
    ) -> BytePairTokenizer:
        """Read a tokenizer that `save` wrote; see `from_bytes` for `ends`.

        Raises:
            TokenizerFileError: if the file is damaged, was edited, or is of another kind.
        """
        with bpe_files.file_errors(path, "saved tokenizer"):
            data = read_bytes(path, most_bytes=bpe_files.LONGEST_FILE)
        return cls.from_bytes(data, path, ends)

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        path: PathLike = "the tokenizer",
        ends: Mapping[str, int] = MappingProxyType({}),
    ) -> BytePairTokenizer:
        """Read a tokenizer from the bytes of a file that `save` wrote.

        Args:
            data: the bytes.
            path: the file's name in errors.
            ends: the tokenizer's `ends`, which files of other programs do not hold.
        """
        with bpe_files.file_errors(path, "saved tokenizer"):
            content = parse_json(path, data)
            if "model" in content and "format" not in content:
                return cls._of_foreign(
                    tokenizer_json.foreign_of_json(path, data, content, ends=ends)
                )
            return cls(*bpe_files.saved_recipe(path, content))

    @classmethod
    def _of_foreign(cls, foreign: ForeignBPE) -> BytePairTokenizer:
        made = cls.__new__(cls)
        made._set_up(foreign.name, foreign.vocabulary, foreign.splitting, foreign)
        return made

    @classmethod
    def from_files(
        cls,
        vocab_bpe: PathLike,
        encoder_json: PathLike,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
    ) -> BytePairTokenizer:
        """Read GPT-2's `vocab.bpe` and `encoder.json` (elsewhere: merges.txt and vocab.json)."""
        with bpe_files.file_errors(f"{vocab_bpe} with {encoder_json}", "pair of BPE files"):
            return cls(*bpe_files.read_openai_files(vocab_bpe, encoder_json, special_tokens))

    @classmethod
    def from_tokenizer_json(
        cls, path: PathLike, *, ignore_keys: Collection[str] = ()
    ) -> BytePairTokenizer:
        """Read a byte-level BPE from Hugging Face's `tokenizer.json`; its ids and rules are kept.

        Args:
            path: the file.
            ignore_keys: settings in it to ignore although they would change the ids.
        """
        with bpe_files.file_errors(path, "tokenizer.json"):
            return cls._of_foreign(tokenizer_json.read_tokenizer_json(path, ignore_keys))

    @classmethod
    def from_gguf(
        cls, metadata: Mapping[str, Any], path: PathLike = "the GGUF file"
    ) -> BytePairTokenizer:
        """Return the byte-level BPE in a GGUF file's key-value pairs (`tokenizer.ggml...`).

        Args:
            metadata: the pairs.
            path: the file's name in errors.

        Raises:
            TokenizerFileError: if it is a tokenizer of another kind, or splits text by an
                unknown rule.
        """
        with bpe_files.file_errors(path, "vocabulary"):
            return cls._of_foreign(gguf_tokenizer.foreign_of_gguf(path, metadata))

    @classmethod
    def from_tiktoken(
        cls,
        path: PathLike,
        special_tokens: SpecialTokens = (END_OF_TEXT,),
        pattern: str = GPT2_PATTERN,
    ) -> BytePairTokenizer:
        """Read a `.tiktoken` file, which holds neither special tokens nor the pattern."""
        with bpe_files.file_errors(path, ".tiktoken file"):
            return cls(*bpe_files.read_tiktoken(path, special_tokens, pattern))

    def save(self, path: PathLike) -> None:
        """Write the tokenizer as JSON with a version and a checksum, atomically.

        A tokenizer from another program's file is written as that file, byte for byte.
        """
        write_bytes(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the bytes that `save` writes."""
        if self._foreign is not None:
            return self._foreign.source
        return bpe_files.saved_text(self.recipe).encode("utf-8")

    def to_files(self, vocab_bpe: PathLike, encoder_json: PathLike) -> None:
        """Write `vocab.bpe` and `encoder.json` as OpenAI's release of GPT-2 has them.

        Raises:
            ValueError: if the tokenizer has rules that the two files cannot hold.
        """
        if self.rules_beyond_tokens:
            raise ValueError(f"{self!r} has rules that only a tokenizer.json can hold")
        bpe_files.write_openai_files(self._vocabulary, vocab_bpe, encoder_json)

    def to_tokenizer_json(self, path: PathLike) -> None:
        """Write a file that `tokenizers.Tokenizer.from_file` loads, with the same ids."""
        if self._foreign is not None:
            write_bytes(path, self._foreign.source)
        else:
            tokenizer_json.write_tokenizer_json(self.recipe, path)

    def to_gguf(self, n_ids: int) -> dict[str, Any]:
        """Return the pairs that `from_gguf` reads, for n_ids ids; ValueError if there are none."""
        parts = self._vocabulary, self._splitting, self._foreign
        return gguf_tokenizer.keys_of_bpe(*parts, self.ends, n_ids)

    def to_tiktoken(self, path: PathLike | None = None) -> tiktoken.Encoding:
        """Return the same tokenizer as tiktoken's `Encoding`; with a path, write the file too."""
        import tiktoken

        if path is not None:
            bpe_files.write_tiktoken(self.recipe, path)
        recipe = self.recipe
        return tiktoken.Encoding(
            self.name,
            pat_str=recipe.pattern,
            mergeable_ranks=bpe_files.mergeable_ranks(recipe),
            special_tokens=self.special_tokens,
        )

    # Text -> ids.

    def _ids(self, text: str, allowed: set[str]) -> list[int]:
        ids: list[int] = []
        ids_of = self._cache.__getitem__
        for i, part in enumerate(self._split(text, allowed)):
            if i % 2:  # ordinary text and special tokens alternate
                ids.append(self._added_ids[part])
                continue
            for block in self._splitting.blocks(nfc(part) if self._normal_form else part):
                ids.extend(chain.from_iterable(map(ids_of, self._splitting.pieces(block))))
        return ids

    def _split(self, text: str, allowed: set[str]) -> list[str]:
        """Split off allowed special tokens and added words: [text, token, ..., text]."""
        if not self._added_words:
            return split_specials(text, allowed)
        parts = [""]
        # A special token that is not allowed is text; added words are not looked for in it.
        found = split_specials(text, self._added_ids)
        for i, part in enumerate(found):
            if i % 2 and (part in allowed or part in self._added_words):
                parts += [part, ""]
            else:
                parts[-1] += part
        return parts

    # Ids -> text.

    def decode_tokens_bytes(self, tokens: Iterable[int]) -> list[bytes]:
        """Return the bytes of each id: T ids -> T pieces."""
        ids = as_ids(tokens)
        try:
            return list(map(self._vocabulary.tokens.__getitem__, map(index, ids)))
        except (KeyError, TypeError):
            # The slow way finds the offending id.
            return [self._vocabulary.bytes_of(i, f" at position {at}") for at, i in enumerate(ids)]

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id."""
        return self._vocabulary.bytes_of(token)

    decode_single_token_bytes = token_bytes  # tiktoken's name

    # What is in the vocabulary.

    @property
    def pattern(self) -> str | None:
        """The pattern that splits a text into pieces, None if several rules do it in turn."""
        return self._splitting.pattern

    @cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs of tokens that merge, in the order in which they merge."""
        return self._vocabulary.merges

    @property
    def recipe(self) -> bpe_files.Recipe:
        """The arguments of the class that make this tokenizer.

        Raises:
            ValueError: if no arguments make it, because its file has rules of its own.
        """
        pattern, foreign = self.pattern, self._foreign
        if pattern is None or (foreign is not None and foreign.differences()):
            raise ValueError(
                f"{self!r} follows rules that only its own file can express; "
                "use save or to_tokenizer_json"
            )
        made = bpe_files.Recipe(
            self.merges, self.special_tokens, pattern, self.name, self.added_words
        )
        if foreign is not None and made.vocabulary().tokens != self._vocabulary.tokens:
            raise ValueError(f"{self!r} has ids of its own; use save or to_tokenizer_json")
        return made

    @property
    def rules_beyond_tokens(self) -> bytes:
        """The differences from this library's tokenizer with the same tokens, b"" if none."""
        return b"" if self._foreign is None else self._foreign.differences()

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens and their ids."""
        return dict(self._special_tokens)

    @property
    def added_words(self) -> dict[str, int]:
        """The added words that are not special, and their ids."""
        return dict(self._added_words)

    @cached_property
    def fingerprint(self) -> str:
        """The 64 hex digits stored with token files, equal for tokenizers that give equal ids."""
        return fingerprint(self)

    # Showing how it works.

    def explain(self, text: str) -> Iterator[MergeStep]:
        """Yield the bytes of each word of a text, and then its tokens after each merge."""
        check_text(text)
        pieces = self._splitting.pieces(text)
        return merge_steps(pieces, self.merges, self._mergeable_ranks)

    def show(self, text: str, special: Special = "allow") -> TokenDisplay:
        """Return a text split into coloured tokens with their ids, for terminals and notebooks."""
        ids = encode(self, text, special)
        return TokenDisplay(tuple(ids), tuple(self.decode_tokens_bytes(ids)))

    def __repr__(self) -> str:
        return f"BytePairTokenizer(name={self.name!r}, n_vocab={self.n_vocab})"

    def __reduce__(self) -> tuple[Callable[..., BytePairTokenizer], tuple[Any, ...]]:
        if self._foreign is not None:
            return type(self).from_bytes, (self.to_bytes(), self.name, self.ends)
        return type(self), tuple(self.recipe)  # without its cache


@cache
def _gpt2_merges() -> list[tuple[bytes, bytes]]:
    return recover_merges(list(load_gpt2_ranks()))
