from __future__ import annotations

import os
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "chapters" / "ch02_tokenize.py"

# What the book prints, in its order, with some lines left out in between.
BOOK_LINES = """
Total number of characters: 20479
I HAD always thought Jack Gisburn rather a cheap genius--though a good fellow enough--so it was no 
['Hello,', ' ', 'world.', ' ', 'This,', ' ', 'is', ' ', 'a', ' ', 'test.']
['Hello', ',', '', ' ', 'world', '.', '', ' ', 'This', ',', '', ' ', 'is', ' ', 'a', ' ', 'test', '.', '']
['Hello', ',', 'world', '.', 'This', ',', 'is', 'a', 'test', '.']
['Hello', ',', 'world', '.', 'Is', 'this', '--', 'a', 'test', '?']
4690
1130
('!', 0)
('Hermia', 50)
[1, 56, 2, 850, 988, 602, 533, 746, 5, 1126, 596, 5, 1, 67, 7, 38, 851, 1108, 754, 793, 7]
" It' s the last he painted, you know," Mrs. Gisburn said with pardonable pride.
" It' s the last he painted, you know," Mrs. Gisburn said with pardonable pride.
1132
('younger', 1127)
('<|unk|>', 1131)
Hello, do you like tea? <|endoftext|> In the sunlit terraces of the palace.
[1131, 5, 355, 1126, 628, 975, 10, 1130, 55, 988, 956, 984, 722, 988, 1131, 7]
<|unk|>, do you like tea? <|endoftext|> In the sunlit terraces of the <|unk|>.
[15496, 11, 466, 345, 588, 8887, 30, 220, 50256, 554, 262, 4252, 18250, 8812, 2114, 1659, 617, 34680, 27271, 13]
Hello, do you like tea? <|endoftext|> In the sunlit terracesof someunknownPlace.
5145
x: [290, 4920, 2241, 287]
y:      [4920, 2241, 287, 257]
[290] ----> 4920
[290, 4920, 2241, 287] ----> 257
 and ---->  established
 and established himself in ---->  a
[tensor([[  40,  367, 2885, 1464]]), tensor([[ 367, 2885, 1464, 1807]])]
[tensor([[ 367, 2885, 1464, 1807]]), tensor([[2885, 1464, 1807, 3619]])]
        [  284,  3285,   326,    11]])
        [ 3285,   326,    11,   287]])
tensor([[ 0.3374, -0.1778, -0.1690],
        [-2.8400, -0.7849, -1.4096]], requires_grad=True)
tensor([[-0.4015,  0.9666, -1.1481]], grad_fn=<EmbeddingBackward0>)
tensor([[ 1.2753, -0.2010, -0.1606],
        [ 0.9178,  1.5810,  1.3010]], grad_fn=<EmbeddingBackward0>)
 torch.Size([8, 4])
torch.Size([8, 4, 256])
torch.Size([4, 256])
torch.Size([8, 4, 256])
[33901, 86, 343, 86, 220, 959]
33901 -> 'Ak' -> [33901]
959 -> 'ier' -> [959]
Akwirw ier
tensor([[  40,  367],
        [ 402,  271]])
tensor([[   40,   367,  2885,  1464,  1807,  3619,   402,   271],
        [  402,   271, 10899,  2138,   257,  7026, 15632,   438]])
tensor([[ 0.3374, -0.1778, -0.3035, -0.5880,  1.5810],
tensor([[ 0.6957, -1.8061, -1.1589,  0.3255, -0.6315],
        [ 1.3010,  1.2753, -0.2010, -0.1606, -0.4015]],
tensor([[0, 0, 1, 0],
        [0, 1, 0, 0]])
tensor([[-0.2039,  0.0166, -0.2483,  0.1886],
        [-0.3814,  0.3274, -0.1179,  0.1605]], requires_grad=True)
The same: True
""".strip("\n").split("\n")  # noqa: E501


with_the_books_data = pytest.mark.script(
    *(SCRIPT, "--quick"), LLM_SCRATCH_DATA=os.environ.get("LLM_SCRATCH_DATA", "")
)


@with_the_books_data
def test_chapter_2_prints_what_the_book_prints(run, verdict):
    lines = iter(run.output.splitlines())
    for expected in BOOK_LINES:
        assert expected in lines, f"{expected!r} is missing, or comes too early"  # moves on
    assert run.errors == ""


@pytest.mark.slow  # the chapter's notebook has no book's story in the default run either
@pytest.mark.script(SCRIPT, "--quick")
def test_chapter_2_runs_without_the_books_story(run):
    lines = run.output.splitlines()
    assert "Whole story back, letter by letter: True" in lines
    assert "The same: True" in lines
    assert lines[-1] == "The same merges: True"
    assert run.errors == ""
    assert [path.name for path in run.folder.iterdir()] == ["chapter-output"]


@with_the_books_data
def test_chapter_2_saves_its_picture(run):
    pytest.importorskip("matplotlib")
    picture = Path("chapter-output") / "ch02-positions.png"
    assert f"Picture: {picture}" in run.output.splitlines()
    assert (run.folder / picture).read_bytes().startswith(b"\x89PNG")
