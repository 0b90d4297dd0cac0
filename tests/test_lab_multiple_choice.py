"""lab_multiple_choice.py: what trains and what chooses a ranker, scores, and the comparison."""

import json
import math
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMultipleChoice, AutoTokenizer

import common
import lab_common
import lab_data
import lab_multiple_choice
from conftest import Run
from lab_data import Question
from lab_multiple_choice import EncodedQuestion, Scorer, is_correct

TEXT = "the with their from river water light small house under there which about these"
WORDS = TEXT.split()
Rows = list[dict[str, Any]]


@pytest.fixture
def encoder(checkpoints: Path) -> Path:
    """Return the folder of a tiny random encoder."""
    return checkpoints / "distilbert/distilbert-base-uncased"


def make_rows(seed: int, count: int = 24) -> Rows:
    """Return questions of random words with two to four choices, as in a file."""
    generator, rows = np.random.default_rng(seed), []
    for choices in generator.integers(2, 5, count).tolist():
        question, *texts = (" ".join(generator.choice(WORDS, 5)) for _ in range(choices + 1))
        answer = int(generator.integers(choices))
        rows.append({"question": question, "choices": texts, "answer": answer})
    return rows


def write(folder: Path, **splits: Rows) -> None:
    """Write a file for each split."""
    for name, rows in splits.items():
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def encoded(features: torch.Tensor, answer: int) -> EncodedQuestion:
    """Return a question whose choices have these features of both kinds, (choices, width)."""
    return EncodedQuestion(
        "?", ["x"] * len(features), answer, choice_features=features, pair_features=features
    )


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SEEDS", 2), ("RANKER_EPOCHS", 3), ("HIDDEN_SIZE", 32)):
        monkeypatch.setattr(lab_multiple_choice, name, value)


# --- What trains and what chooses ---------------------------------------------------------------


@pytest.mark.usefixtures("short_training")
@pytest.mark.parametrize("changed", lab_data.SPLITS)
def test_training_questions_alone_train_every_model(
    changed: str, run: Run, tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spy(model: torch.nn.Module, *rest: Any) -> None:
        train(model, *rest)
        counts.append(lab_common.trained_weights(model))
        weights[-1].append(sum(w.double().sum().item() for w in model.parameters()))

    train, weights, counts = lab_common.train, [], []
    monkeypatch.setattr(lab_common, "train", spy)
    splits = {name: make_rows(seed) for seed, name in enumerate(lab_data.SPLITS)}
    for rows in (splits[changed], make_rows(3)):
        weights.append([])
        write(tmp_path, **splits | {changed: rows})
        options = ("--data", tmp_path, "--model", encoder, "--finetune", "--quick")
        assert run("lab_multiple_choice", *options)[0] == 0
    assert len({*weights[0]}) == len(weights[0])  # other seeds and dropouts, other networks
    is_equal = [first == second for first, second in zip(*weights, strict=True)]
    assert is_equal == [changed != "train"] * (2 * 2 * 4 + 2)  # inputs, seeds, dropouts; fine-tuned
    assert counts[-1] < counts[-2]  # LoRA trains fewer


@pytest.mark.parametrize("best", range(3))
def test_the_dropout_with_the_best_validation_accuracy_is_used(
    best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_ranker(questions: object, inputs: str, dropout: float) -> Scorer:
        return lambda question: question.pair_features[:, dropout]  # is right if that is the answer

    monkeypatch.setattr(lab_multiple_choice, "DROPOUT", range(3))
    monkeypatch.setattr(lab_multiple_choice, "train_ranker", train_ranker)
    answers = {"train": 2, "validation": best, "test": 0}
    splits = {name: [encoded(torch.eye(3), answer)] for name, answer in answers.items()}
    row = lab_multiple_choice.fit_ranker(splits, "pair_features", seed=0)
    assert is_correct(row, splits["validation"]).all()


# --- Questions ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_training")
def test_training_questions_of_the_test_set_are_removed(
    run: Run, tmp_path: Path, encoder: Path
) -> None:
    train, test = make_rows(0, 60), make_rows(2)
    copies = [row | {"question": f" {row['question'].upper()}  "} for row in test[:7]]
    write(tmp_path, train=[*train, *copies], test=test)  # validation questions are held out
    lines = run("lab_multiple_choice", "--data", tmp_path, "--model", encoder)[1].splitlines()
    removed, kept = ([int(count) for count in re.findall(r"\d+", line)] for line in lines[:2])
    assert (sum(removed), sum(kept)) == (7, 60 + 24)


@pytest.mark.parametrize("seed", range(3))
def test_similar_questions_are_held_out_together(seed: int) -> None:
    generator = np.random.default_rng(seed)
    facts = generator.permutation(np.arange(80) % 20)  # four questions about each
    noise = generator.normal(0, 0.01, (80, 32))
    features = generator.normal(0, 1, (20, 32))[facts] + noise  # (questions, width)
    questions = [Question("?", ["yes", str(fact)], 0) for fact in facts]
    splits = lab_multiple_choice.hold_out(questions, features, seed)
    held_out = {name: {each.choices[1] for each in rows} for name, rows in splits.items()}
    assert not held_out["train"] & held_out["validation"]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 72, "validation": 8}


def test_shuffled_choices_have_the_right_answer() -> None:
    questions = [Question(f"{n}", ["no", "never", f"yes {n}"], 2) for n in range(50)]
    sampled = lab_multiple_choice.sample(questions, 40, seed=0)
    assert len({question.text for question in sampled}) == 40
    assert {question.answer for question in sampled} == {0, 1, 2}
    for question in sampled:
        assert question.choices[question.answer] == f"yes {question.text}"
        assert sorted(question.choices) == ["never", "no", f"yes {question.text}"]


# --- Features and scores ------------------------------------------------------------------------


def test_features_are_choice_question_product_and_cosine(encoder: Path) -> None:
    model, tokenizer = (common.load(each, encoder) for each in (AutoModel, AutoTokenizer))
    question = Question("the river", ["small house", "the river", "water under there"], 1)
    (found,) = lab_multiple_choice.add_features(model, tokenizer, [question])
    texts = [question.text, *question.choices]
    with torch.inference_mode():
        states = [model(**tokenizer(text, return_tensors="pt"))[0][0] for text in texts]
    means = [state.mean(0) for state in states]  # (width,) each
    asked, *choices = (mean / mean.square().mean().sqrt() for mean in means)
    for index, choice in enumerate(choices):
        cosine = torch.cosine_similarity(means[0], means[1 + index], dim=0)
        expected = torch.cat([choice, asked, choice * asked, cosine[None]])
        torch.testing.assert_close(found.pair_features[index], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.choice_features[index], choice, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scores", [[1, 2, 0], [2, 2, 0], [0, 2, 2], [0, 0, 0], [math.nan] * 3])
def test_a_tie_is_wrong(scores: list[float]) -> None:
    questions = [encoded(torch.zeros(3, 1), answer) for answer in range(3)]
    right = is_correct(lambda _: torch.tensor(scores), questions).tolist()
    assert right == [False, scores == [1, 2, 0], False]


def test_ranker_learns_the_features_of_right_choices() -> None:
    generator, questions = torch.Generator().manual_seed(0), []
    for answer in [0, 1, 2] * 60:
        features = torch.randn(3 + answer, 8, generator=generator)  # (choices, width)
        features[answer, 3] += 3
        questions.append(encoded(features, answer))
    common.seed_everything(0)
    row = lab_multiple_choice.train_ranker(questions, "choice_features", 0.1)
    assert is_correct(row, questions).mean() > 0.9
    assert torch.equal(row(questions[0]), row(questions[0]))  # without dropout


def test_fine_tuning_learns_which_choice_continues_the_question(encoder: Path) -> None:
    generator, questions = np.random.default_rng(0), []
    for _ in range(32):
        words = generator.permutation(WORDS)[:3].tolist()
        answer = int(generator.integers(3))
        questions.append(EncodedQuestion(words[answer], words, answer, *torch.zeros(2, 3, 1)))
    common.seed_everything(0)
    model = common.add_head(AutoModelForMultipleChoice, encoder, {0: "score"})
    tokenizer = common.load(AutoTokenizer, encoder)
    row = lab_multiple_choice.finetune(model, tokenizer, questions, 30, 5e-3)
    assert is_correct(row, questions).mean() > 0.8
    assert torch.equal(row(questions[0]), row(questions[0]))  # without dropout


def test_choices_of_several_questions_are_read_one_by_one(encoder: Path) -> None:
    model = common.add_head(AutoModelForMultipleChoice, encoder, {0: "score"}).eval()
    tokenizer = common.load(AutoTokenizer, encoder)
    questions = [Question("the river", ["a b", "c"], 0), Question("of", ["d", "e f g", "h"], 2)]
    with torch.inference_mode():
        scores = lab_multiple_choice.read_together(model, tokenizer, questions)
        for question, found in zip(questions, scores, strict=True):
            for choice, score in zip(question.choices, found, strict=True):
                ids = tokenizer(question.text, choice, return_tensors="pt")
                expected = model(**{name: row[None] for name, row in ids.items()}).logits
                assert score.item() == pytest.approx(expected.item(), abs=1e-5)


# --- Comparison ---------------------------------------------------------------------------------


def test_mcnemar_compares_the_questions_that_one_of_the_first_rankers_alone_answers(
    capsys: pytest.CaptureFixture,
) -> None:
    first = np.array([1] * 6 + [0] * 2 + [1] * 4 + [0] * 8, dtype=bool)
    second = np.array([0] * 6 + [1] * 2 + [1] * 4 + [0] * 8, dtype=bool)
    shown, hidden = {"both": np.array([first, second])}, {"both": np.array([second, first])}
    lab_multiple_choice.print_comparison(shown, hidden)
    out, err = capsys.readouterr()
    tails = 2 * sum(math.comb(8, count) for count in (0, 1, 2)) / 2**8
    assert out.splitlines()[-1].split() == ["both", "6", "2", f"{tails:.2g}"]
    assert "the accuracy on both by +0.200: no evidence of an effect" in err


def test_table_has_means_deviations_and_intervals(capsys: pytest.CaptureFixture) -> None:
    questions = [encoded(torch.zeros(choices, 1), 0) for choices in (2, 4)]
    splits = {"validation": questions, "test": questions * 5}
    right = {"validation": np.arange(4) < [[1], [3]], "test": np.arange(10) < [[5], [9]]}
    lab_multiple_choice.print_table({"two runs": right}, splits)
    *_, chance, row = capsys.readouterr().out.splitlines()
    assert re.findall(r"\d\.\d{3}", chance) == ["0.375", "0.375"]
    interval = ["0.397", "0.892"]  # Wilson's, of 7 right answers to 10 questions
    assert re.findall(r"\d\.\d{3}", row) == ["0.500", "0.354", "0.700", "0.283", *interval]


@pytest.mark.usefixtures("short_training")
def test_cosine_finds_a_choice_that_repeats_the_question(
    run: Run, tmp_path: Path, encoder: Path
) -> None:
    splits = {name: make_rows(seed) for seed, name in enumerate(lab_data.SPLITS)}
    for row in chain(*splits.values()):
        row["choices"][row["answer"]] = row["question"]
    write(tmp_path, **splits)
    _, out, _ = run("lab_multiple_choice", "--data", tmp_path, "--model", encoder)
    assert re.findall(r"\ncosine +([\d.]+) +([\d.]+)", out) == [("1.000", "1.000")]


def test_loss_of_equal_scores_is_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(_: Any, batch_loss: Any, *rest: Any) -> None:
        losses.append(batch_loss([0]).item())

    losses: list[float] = []
    monkeypatch.setattr(lab_common, "train", record)
    lab_multiple_choice.train_ranker([encoded(torch.zeros(2, 8), 0)], "choice_features", 0.0)
    assert losses == [lab_multiple_choice.MARGIN]
