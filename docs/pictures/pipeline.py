"""Draw the README's picture: python docs/pictures/pipeline.py writes pipeline.svg beside itself."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1000, 250
BOX_WIDTH, BOX_HEIGHT, TOP, GAP = 136, 74, 58, 76
INK, SOFT, LINE = "#1f2933", "#5b6773", "#9aa5b1"

# What there is: its name, what it is made of or does, where one reads about it, its colour.
STAGES = (
    ("text", "files, stories, rows", "your own data", "#f3f0ff"),
    ("tokens", "byte pairs, windows", "chapter 2", "#e7f5ff"),
    ("base model", "GPT, Llama, Qwen", "chapters 3 to 5", "#e6fcf5"),
    ("assistant", "full or LoRA", "chapters 6, 7, part 10", "#fff9db"),
    ("chat", "terminal, API, page", "answers, and stops", "#fff0f6"),
)
COMMANDS = ("prepare", "pretrain", "finetune", "chat")
BANDS = (
    ("weights in and out: Hugging Face, GGUF, OpenAI's, PEFT", 2, 4),
    ("one process or many, the same losses; memory known beforehand, and measured", 1, 3),
)


def left(stage: int) -> int:
    """Return where a stage's box begins."""
    return (WIDTH - 5 * BOX_WIDTH - 4 * GAP) // 2 + stage * (BOX_WIDTH + GAP)


def text(x: float, y: float, words: str, size: int, colour: str = INK, more: str = "") -> str:
    """Return a line of text, centred at x."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" '
        f'text-anchor="middle"{more}>{escape(words)}</text>'
    )


def boxes() -> Iterator[str]:
    """Yield the stages."""
    for stage, (name, about, where, colour) in enumerate(STAGES):
        x, middle = left(stage), left(stage) + BOX_WIDTH / 2
        yield (
            f'<rect x="{x}" y="{TOP}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="10" '
            f'fill="{colour}" stroke="{LINE}"/>'
        )
        yield text(middle, TOP + 32, name, 18, more=' font-weight="600"')
        yield text(middle, TOP + 55, about, 12, SOFT)
        yield text(middle, TOP + BOX_HEIGHT + 20, where, 12, SOFT)


def arrows() -> Iterator[str]:
    """Yield the commands between the stages."""
    for stage, command in enumerate(COMMANDS):
        start, end, y = left(stage) + BOX_WIDTH + 5, left(stage + 1) - 5, TOP + BOX_HEIGHT / 2
        yield f'<path d="M{start} {y} H{end - 7}" stroke="{INK}" stroke-width="1.6"/>'
        yield f'<path d="M{end} {y} l-9 -5 v10 z" fill="{INK}"/>'
        mono = ' font-family="ui-monospace,Menlo,Consolas,monospace"'
        yield text((start + end) / 2, y - 10, command, 11, more=mono)


def bands() -> Iterator[str]:
    """Yield what holds for several stages, under them."""
    for row, (words, first, last) in enumerate(BANDS):
        y, x = TOP + BOX_HEIGHT + 38 + 36 * row, left(first)
        width = left(last) + BOX_WIDTH - x
        yield (
            f'<rect x="{x}" y="{y}" width="{width}" height="26" rx="13" fill="none" '
            f'stroke="{LINE}" stroke-dasharray="4 3"/>'
        )
        yield text(x + width / 2, y + 17, words, 12, SOFT)


def picture() -> str:
    """Return the picture as SVG."""
    title = "A text becomes tokens, a base model, an assistant, a chat"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui,Segoe UI,Helvetica,Arial,sans-serif" role="img">'
    )
    card = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="14" fill="#ffffff"/>'
    caption = (
        "llm-scratch: one command per arrow, one chapter per stage, each readable to the bottom"
    )
    parts = [f"<title>{title}</title>", card, text(WIDTH / 2, 34, caption, 14, SOFT)]
    return "\n".join([head, *parts, *boxes(), *arrows(), *bands(), "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
