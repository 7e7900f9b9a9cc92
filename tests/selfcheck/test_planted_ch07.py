from __future__ import annotations

import pytest
from planted import READERS, Mistake, must_be_caught, must_be_right, results, right_source

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.names import read
from llm_scratch.selfcheck.run import checks_of, run_checks

LOAD, FORMAT = ("ch07", "download_and_load_file"), ("ch07", "format_input")
DATA, COLLATE = ("ch07", "InstructionDataset"), ("ch07", "custom_collate_fn")
DRAFT_1, DRAFT_2 = ("ch07", "custom_collate_draft_1"), ("ch07", "custom_collate_draft_2")
RUNS, ASK = ("ch07", "check_if_running"), ("ch07", "query_model")
SCORES = ("ch07", "generate_model_scores")
PHI, PHI_DATA = ("ch07", "format_input_phi"), ("ch07", "InstructionDatasetPhi")
MASKING = ("ch07", "InstructionDatasetWithMasking")
MASKED = ("ch07", "custom_collate_with_masking_fn")
RUNNING = "def check_if_running(process_name):\n"
SECTION = ' if entry["input"] else ""'
# A table with one mistake per row.
# fmt: off
MISTAKES = [
    Mistake("text for data", *LOAD, "json.load(file)", "file.read()", hints.PARSED),
    Mistake("not saved", *LOAD, "        with open(file_path, \"w\"",
            "        return json.loads(text)\n        with open(file_path, \"w\"",
            hints.FILE_KEPT),
    Mistake("fetched every time", *LOAD, "if not os.path.exists(file_path)", "if True",
            hints.FILE_KEPT),
    Mistake("no heading of the instruction", *FORMAT, "### Instruction:", "", hints.HEADINGS),
    Mistake("no heading of the input", *FORMAT, "### Input:", "", hints.HEADINGS),
    Mistake("input left out", *FORMAT, "instruction_text + input_text", "instruction_text",
            hints.HEADINGS),
    Mistake("input before the instruction", *FORMAT, "instruction_text + input_text",
            "input_text + instruction_text", hints.HEADINGS),
    Mistake("empty input printed", *FORMAT, SECTION, "", hints.EMPTY_INPUT),
    Mistake("asked for the wrong key", *FORMAT, SECTION, ' if "input" in entry else ""',
            hints.EMPTY_INPUT),
    Mistake("answer in the prompt", *FORMAT, "instruction_text + input_text",
            'instruction_text + input_text + entry["output"]', hints.ANSWER_GIVEN_AWAY),
    Mistake("prompt alone", *DATA, "prompt + response", "prompt", hints.RESPONSE_MISSING),
    Mistake("answer alone", *DATA, "prompt + response", "response", hints.PROMPT_MISSING),
    Mistake("heading of the response missing", *DATA, "### Response:", "",
            hints.RESPONSE_HEADING),
    Mistake("heading after the answer", *DATA, "\\n\\n### Response:\\n{entry['output']}",
            "\\n\\n{entry['output']}\\n### Response:", hints.RESPONSE_HEADING),
    Mistake("something after the answer", *DATA, "{entry['output']}", "{entry['output']} (end)",
            hints.RESPONSE_MISSING),
    Mistake("one item too few", *DATA, "len(self.data)", "len(self.data) - 1",
            hints.ROWS_COUNTED),
    Mistake("padded one too far", *DRAFT_1, "for item in batch)\n", "for item in batch) + 1\n",
            hints.RAGGED),
    Mistake("draft targets unshifted", *DRAFT_2, "rows[:, 1:]", "rows[:, :-1]",
            hints.TARGETS_NOT_SHIFTED),
    Mistake("draft targets the wrong way round", *DRAFT_2, "rows[:, 1:]",
            "rows.roll(1, 1)[:, :-1]", hints.TARGETS_SHIFTED_WRONG),
    Mistake("inputs alone", *DRAFT_2, ", rows[:, 1:].to(device)", "", hints.NOT_TENSOR),
    Mistake("padding learned", *COLLATE, "target[padding[1:]] = ignore_index", "pass",
            hints.PADDING_LEARNED),
    Mistake("end of text masked away", *COLLATE, "padding[1:]", "padding", hints.END_MASKED),
    Mistake("targets unshifted", *COLLATE, "row[1:].clone()", "row[:-1].clone()",
            hints.TARGETS_NOT_SHIFTED),
    Mistake("targets not cut", *COLLATE, "target[:allowed_max_length]", "target",
            hints.TRUNCATION),
    Mistake("cut at the wrong end", *COLLATE, "[:allowed_max_length]",
            "[-(allowed_max_length or 0):]", hints.TRUNCATION),
    Mistake("nothing ever runs", *RUNS, RUNNING, RUNNING + "    return False\n", hints.RUNNING),
    Mistake("everything runs", *RUNS, RUNNING, RUNNING + "    return True\n", hints.RUNNING),
    Mistake("first piece of the reply alone", *ASK, "for line in response:\n            reply +=",
            "for line in [response.readline()]:\n            reply +=", hints.REPLY_PIECES),
    Mistake("last piece of the reply alone", *ASK, "reply +=", "reply =", hints.REPLY_PIECES),
    Mistake("pieces on lines of their own", *ASK, '["message"]["content"]',
            '["message"]["content"] + "\\n"', hints.REPLY_PIECES),
    Mistake("always llama3", *ASK, '"model": model', '"model": "llama3"', hints.MODEL_NAMED),
    Mistake("prompt not sent", *ASK, '"content": prompt', '"content": ""', hints.PROMPT_SENT),
    Mistake("prompt as a system message", *ASK, '"user"', '"system"', hints.PROMPT_SENT),
    Mistake("scores as text", *SCORES, "int(score)", "score", hints.SCORES),
    Mistake("first entry alone", *SCORES, "in json_data", "in json_data[:1]", hints.SCORES),
    Mistake("answer not shown", *SCORES, "{entry[json_key]}", "{json_key}", hints.JUDGE_ANSWER),
    Mistake("right answer not shown", *SCORES, "{entry['output']}", "", hints.JUDGE_REFERENCE),
    Mistake("task not shown", *SCORES, "{format_input(entry)}", "", hints.JUDGE_TASK),
    Mistake("input not shown", *SCORES, "{format_input(entry)}", "{entry['instruction']}",
            hints.JUDGE_TASK),
    Mistake("unreadable score ends it", *SCORES, "except ValueError", "except KeyError",
            hints.UNREADABLE_SCORE),
    Mistake("unreadable score is 0", *SCORES, "continue", "scores.append(0)",
            hints.UNREADABLE_SCORE),
    Mistake("another judge", *SCORES, "query_model(prompt, model)", "query_model(prompt)",
            hints.MODEL_PASSED_ON),
    Mistake("no mark of the user", *PHI, "<|user|>\\n", "", hints.PHI_MARKS),
    Mistake("Alpaca's headings in Phi-3", *PHI, "<|user|>\\n", "<|user|>\\n### Instruction:\\n",
            hints.PHI_MARKS),
    Mistake("Phi-3's answer given away", *PHI, "{input_text}", "{input_text}{entry['output']}",
            hints.ANSWER_GIVEN_AWAY),
    Mistake("no mark of the assistant", *PHI_DATA, "<|assistant|>", "", hints.PHI_ANSWER),
    Mistake("Alpaca's prompt for Phi-3", *PHI_DATA, "format_input_phi", "format_input",
            hints.PHI_MARKS),
    Mistake("length of the whole text", *MASKING, "encode(prompt))", "encode(prompt + response))",
            hints.INSTRUCTION_LENGTH),
    Mistake("length of the response", *MASKING, "encode(prompt))", "encode(response))",
            hints.INSTRUCTION_LENGTH),
    Mistake("masked text without its answer", *MASKING, "encode(prompt + response)",
            "encode(prompt)", hints.RESPONSE_MISSING),
    Mistake("instruction learned", *MASKED, "target[: length - 1] = ignore_index", "pass",
            hints.INSTRUCTION_LEARNED),
    Mistake("first of the response masked", *MASKED, "length - 1", "length",
            hints.INSTRUCTION_OFF_BY_ONE),
    Mistake("end masked with the instruction", *MASKED, "padding[1:]", "padding",
            hints.END_MASKED),
]

# What is right too: no result is a mistake; the hint is that of a note, "" where there is none.
VARIANTS = [
    Mistake("other wording", *FORMAT, "describes a task", "states a task", hints.PROMPT_TEXT),
    Mistake("another reply every time", *ASK, '"options": {"seed": 123, "temperature": 0},', "",
            hints.REPEATABLE),
    Mistake("the whole reply at once", *ASK, '"model": model', '"stream": False, "model": model',
            ""),
    Mistake("ids as tensors", *DATA, "tokenizer.encode(prompt + response)",
            "torch.tensor(tokenizer.encode(prompt + response))", ""),
    Mistake("length with the heading", *MASKING, "encode(prompt))",
            'encode(prompt + "\\n\\n### Response:"))', ""),
]
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_planted_mistake_is_caught_with_its_hint(mistake: Mistake) -> None:
    must_be_caught(mistake)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
def test_variant_is_right(variant: Mistake) -> None:
    must_be_right(variant)


def test_right_file_has_no_mistake() -> None:
    for name in {check.name for check in checks_of("ch07")}:
        assert {result.state for result in results(right_source("ch07"), "ch07", name)} == {"right"}


def test_different_implementation_is_right() -> None:
    report = run_checks("ch07", read(READERS / "different_ch07.py"))
    assert {result.state for result in report.results} <= {"right", "note"}
    assert all("not a fault" in result.hint for result in report.results if result.state == "note")
