"""Task 04: the written summary, the selected sentences, and their limits."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

import bundled
import task04
from conftest import EXPECTED, PIPELINES, ModelAndTokenizer, Run, load_pair, only_line

SENTENCES = (
    "The harbour is old.",
    "Dr. Smith wrote that ships, e.g. from Spain, came approx. three times a day!",
    "Who knows?",
    "The harbour has ships",
    "Not one line more",
)


@pytest.fixture
def t5(checkpoints: Path) -> ModelAndTokenizer:
    return load_pair(checkpoints / task04.MODEL)


@pytest.fixture(scope="module")
def encoder() -> ModelAndTokenizer:
    return load_pair(bundled.encoder(), AutoModel)


def test_output_without_a_network(run: Run) -> None:
    code, out, err = run("task04")
    assert (code, out) == (0, (EXPECTED / "task04.txt").read_text(encoding="utf-8"))
    only_line(err, "The bundled ")


def test_summary_equals_that_of_the_pipeline(t5: ModelAndTokenizer) -> None:
    recorded = PIPELINES["summary"]
    assert task04.summarise(*t5, task04.LONG_TEXT) == recorded


def test_long_text_is_cut_with_a_note(
    t5: ModelAndTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = t5
    length = len(tokenizer("summarize: " + task04.LONG_TEXT)["input_ids"])
    expected = task04.summarise(model, tokenizer, task04.LONG_TEXT)
    assert capsys.readouterr().err == ""
    tokenizer.model_max_length = length
    longer = task04.LONG_TEXT.strip() + " More."
    assert task04.summarise(model, tokenizer, longer) == expected
    only_line(capsys.readouterr().err, f"the first {length} of ")


def test_selected_sentences_are_most_similar_to_the_mean_of_all(
    encoder: ModelAndTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = encoder
    with torch.inference_mode():
        means = [
            model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0].mean(0)
            for sentence in SENTENCES
        ]
    cosines = [sum(torch.cosine_similarity(mean, other, 0) for other in means) for mean in means]
    first, second = sorted(sorted(range(5), key=cosines.__getitem__)[-2:])  # two of five
    expected = f"{SENTENCES[first]} {SENTENCES[second]}"
    text = " ".join(SENTENCES[:4]) + "\n \n" + SENTENCES[4]
    assert task04.select_sentences(model, tokenizer, text) == expected
    only_line(capsys.readouterr().err, "sentences to select from: 5")


def test_sentence_beyond_the_limit_is_not_selected(encoder: ModelAndTokenizer) -> None:
    long = "The harbour has ships and " + "ships and " * 30 + "ships."
    text = f"{long} The harbour has a ship. {long} {long}"
    assert task04.select_sentences(*encoder, text) == "The harbour has a ship."


def test_text_of_a_file_is_summarised(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Café society met here.\n", encoding="utf-8")
    code, out, _ = run("task04", "--model", "bundled", "--text", tmp_path / "text.txt")
    assert (code, out) == (0, "Café society met here.\n")


def test_control_characters_are_not_printed(run: Run) -> None:
    code, out, _ = run("task04", "--model", "bundled", "A red \x1b[31mword\nand no end")
    assert (code, "\x1b" in out, out[-16:]) == (0, False, "word and no end\n")


def test_text_of_one_long_sentence_is_an_error(run: Run) -> None:
    code, out, err = run("task04", "--model", "bundled", "word " * 60)
    assert (code, out) == (1, "")
    only_line(err, "no sentence of the text has at most 50 tokens")
