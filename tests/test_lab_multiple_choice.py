"""lab_multiple_choice.py: what trains and what chooses a ranker, scores, and the comparison."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMultipleChoice, AutoTokenizer

import common
import lab_data
import lab_multiple_choice
from conftest import EXPECTED, SHARED, Run, only_line
from lab_data import Question
from lab_multiple_choice import EncodedQuestion, Scorer, is_right

TEXT = "the with their from river water light small house under there which about these"
WORDS = TEXT.split()
QUICK = {"SEEDS": 2, "RANKER_EPOCHS": 3, "HIDDEN_SIZE": 32}
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


def other_answers(rows: Rows) -> Rows:
    """Return the same questions with other answers."""
    return [row | {"answer": len(row["choices"]) - 1 - row["answer"]} for row in rows]


def write(folder: Path, **splits: Rows) -> None:
    """Write a file for each split."""
    for name, rows in splits.items():
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def encoded(features: torch.Tensor, answer: int) -> EncodedQuestion:
    """Return a question whose choices have these features, (choices, width), in both views."""
    return EncodedQuestion("?", ["x"] * len(features), answer, alone=features, paired=features)


def fixed(scores: list[float]) -> Scorer:
    """Return a scorer that gives the choices of every question these scores."""
    return lambda question: torch.tensor(scores[: len(question.choices)])


# --- What trains and what chooses ---------------------------------------------------------------


@pytest.fixture
def scores_of(
    run: Run, tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, list]]:
    """Return a function that runs the script with three splits and all rows.

    It returns the scores of the validation and of the test choices by each run of each row.
    """
    for name, value in QUICK.items():
        monkeypatch.setattr(lab_multiple_choice, name, value)

    def scores_of(**splits: Rows) -> dict[str, list]:
        scores: dict[str, list] = {"validation": [], "test": []}

        def evaluate(runs: list[Scorer], splits: dict[str, list[EncodedQuestion]]) -> object:
            with torch.inference_mode():
                for name, rows in scores.items():
                    rows += [[run(question).tolist() for question in splits[name]] for run in runs]
            return {name: np.zeros((1, 2), dtype=bool) for name in ("validation", "test", "both")}

        monkeypatch.setattr(lab_multiple_choice, "evaluate", evaluate)
        write(tmp_path, **splits)
        options = ("--data", tmp_path, "--model", encoder, "--finetune", "--quick")
        code, _, errors = run("lab_multiple_choice", *options)
        assert code == 0, errors
        return scores

    return scores_of


def test_test_questions_train_and_choose_nothing(scores_of: Callable) -> None:
    train, validation = make_rows(0), make_rows(1)
    scores = scores_of(train=train, validation=validation, test=make_rows(2))
    changed = scores_of(train=train, validation=validation, test=make_rows(3))
    assert changed["test"] != scores["test"]
    assert changed["validation"] == scores["validation"]


def test_test_answers_change_no_score(scores_of: Callable) -> None:
    train, validation, test = map(make_rows, range(3))
    scores = scores_of(train=train, validation=validation, test=test)
    assert scores_of(train=train, validation=validation, test=other_answers(test)) == scores


def test_validation_questions_train_nothing(
    scores_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_multiple_choice, "DROPOUT", (0.3,))  # leaves them nothing to choose
    train, test = make_rows(0), make_rows(2)
    scores = scores_of(train=train, validation=make_rows(1), test=test)
    changed = scores_of(train=train, validation=make_rows(3), test=test)
    assert changed["test"] == scores["test"]


def test_training_answers_train_every_trained_row(scores_of: Callable) -> None:
    train, validation, test = map(make_rows, range(3))
    scores = scores_of(train=train, validation=validation, test=test)["test"]
    changed = scores_of(train=other_answers(train), validation=validation, test=test)["test"]
    equal = [first == second for first, second in zip(scores, changed, strict=True)]
    assert equal == [True, True, *[False] * 6]  # longest, cosine; 2 * 2 rankers, 2 fine-tuned


@pytest.mark.parametrize("best", range(3))
def test_the_dropout_with_the_best_validation_accuracy_is_used(
    best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_ranker(questions: object, view: str, dropout: float) -> Scorer:
        return lambda question: question.paired[:, round(10 * dropout)]  # its own column is right

    monkeypatch.setattr(lab_multiple_choice, "DROPOUT", (0.0, 0.1, 0.2))
    monkeypatch.setattr(lab_multiple_choice, "train_ranker", train_ranker)
    splits = {}
    for name, column in (("train", 2), ("validation", best), ("test", 0)):
        features = torch.zeros(4, 3)
        features[1, column] = 1  # of the right choice
        splits[name] = [encoded(features, 1)]
    row = lab_multiple_choice.fit_ranker(splits, "paired", seed=0)
    assert is_right(row, splits["validation"]).all()


def test_each_ranker_has_its_own_seed(
    run: Run, tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def fit_ranker(splits: object, view: str, seed: int) -> Scorer:
        seeds.append((view, seed))
        return fixed([0.0, 1.0, 2.0, 3.0])

    monkeypatch.setattr(lab_multiple_choice, "fit_ranker", fit_ranker)
    write(tmp_path, train=make_rows(0), test=make_rows(1))
    run("lab_multiple_choice", "--data", tmp_path, "--model", encoder, "--seed", 5)
    assert seeds == [(view, seed) for view in ("alone", "paired") for seed in (5, 6, 7)]


def test_other_seed_other_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    questions = [encoded(torch.randn(3, 4, generator=generator), 0) for _ in range(20)]
    splits = dict.fromkeys(lab_data.SPLITS, questions)
    first, again, other = (
        lab_multiple_choice.fit_ranker(splits, "alone", seed)(questions[0]).tolist()
        for seed in (0, 0, 1)
    )
    assert first == again != other


# --- Questions ----------------------------------------------------------------------------------


def test_training_questions_of_the_test_set_are_removed(
    run: Run, tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in QUICK.items():
        monkeypatch.setattr(lab_multiple_choice, name, value)
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


def test_questions_are_sampled_and_the_right_choice_is_not_always_the_first(
    run: Run, tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_first = fixed([3.0, 2.0, 1.0, 0.0])
    monkeypatch.setattr(lab_multiple_choice, "fit_ranker", lambda *_: always_first)
    first = [[row | {"answer": 0} for row in make_rows(seed, 320)] for seed in range(3)]
    write(tmp_path, **dict(zip(lab_data.SPLITS, first, strict=True)))
    output = run("lab_multiple_choice", "--data", tmp_path, "--model", encoder, "--quick")[1]
    assert ", 300 test questions\n" in output
    for accuracy in re.findall(r"\d\.\d{3}(?= ±)", only_line(output, "ranker   ")):
        assert 0.2 < float(accuracy) < 0.5


def test_shuffled_choices_have_the_right_answer() -> None:
    questions = [Question(f"{n}", ["no", "never", f"yes {n}"], 2) for n in range(50)]
    sampled = lab_multiple_choice.sample(questions, 40, seed=0)
    assert len({question.text for question in sampled}) == 40
    for question in sampled:
        assert question.choices[question.answer] == f"yes {question.text}"
        assert sorted(question.choices) == ["never", "no", f"yes {question.text}"]


@pytest.mark.parametrize(("files", "problem"), [
    ({"train": make_rows(0, 1), "test": make_rows(1)}, "too few training questions"),
    (dict.fromkeys(lab_data.SPLITS, make_rows(1)), "too few texts: none is left"),
])  # fmt: skip
def test_too_few_questions_are_one_line(
    files: dict[str, Rows], problem: str, run: Run, tmp_path: Path, encoder: Path
) -> None:
    write(tmp_path, **files)
    code, _, errors = run("lab_multiple_choice", "--data", tmp_path, "--model", encoder)
    assert (code, errors.count("\n")) == (1, 1)
    assert errors.startswith(f"lab_multiple_choice.py: {problem}")


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
        torch.testing.assert_close(found.paired[index], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.alone[index], choice, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("scores", "right"), [
    ([1.0, 2.0, 0.0], [False, True, False]),
    ([2.0, 2.0, 0.0], [False, False, False]),
    ([0.0, 2.0, 2.0], [False, False, False]),
    ([0.0, 0.0, 0.0], [False, False, False]),
    ([math.nan] * 3, [False, False, False]),
])  # fmt: skip
def test_a_tie_is_wrong(scores: list[float], right: list[bool]) -> None:
    questions = [encoded(torch.zeros(3, 1), answer) for answer in range(3)]
    assert is_right(fixed(scores), questions).tolist() == right


def test_ranker_learns_the_features_of_right_choices() -> None:
    generator = torch.Generator().manual_seed(0)
    questions = []
    for count in torch.randint(2, 6, (200,), generator=generator).tolist():
        features = torch.randn(count, 8, generator=generator)
        answer = int(torch.randint(count, (), generator=generator))
        features[answer, 3] += 3
        questions.append(encoded(features, answer))
    common.seed_everything(0)
    row = lab_multiple_choice.train_ranker(questions, "alone", 0.1)
    assert is_right(row, questions).mean() > 0.9
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
    assert is_right(row, questions).mean() > 0.8
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


def test_mcnemar_compares_the_questions_that_one_ranker_alone_answers() -> None:
    first = np.array([1] * 6 + [0] * 2 + [1] * 4 + [0] * 8, dtype=bool)
    second = np.array([0] * 6 + [1] * 2 + [1] * 4 + [0] * 8, dtype=bool)
    tails = 2 * sum(math.comb(8, count) for count in (0, 1, 2)) / 2**8
    assert lab_multiple_choice.mcnemar(first, second) == (6, 2, pytest.approx(tails))
    assert lab_multiple_choice.mcnemar(first, first) == (0, 0, 1)


def test_comparison_pairs_the_first_rankers_on_each_set_and_on_both(
    capsys: pytest.CaptureFixture,
) -> None:
    questions = [encoded(torch.zeros(2, 1), 0)] * 8
    splits = {"validation": questions[:3], "test": questions}
    results = [
        lab_multiple_choice.evaluate([fixed(first), fixed(second)], splits)
        for first, second in (([1.0, 0.0], [0.0, 1.0]), ([0.0, 1.0], [1.0, 0.0]))
    ]
    lab_multiple_choice.print_comparison(*results)
    out, err = capsys.readouterr()
    assert "the accuracy on both by +1.000: evidence of an effect" in err
    rows = [line.split() for line in out.splitlines()[-3:]]
    assert rows == [
        ["validation", "3", "0", "0.25"],
        ["test", "8", "0", "0.0078"],
        ["both", "11", "0", "0.00098"],
    ]


def test_table_has_means_deviations_and_wilson_intervals(capsys: pytest.CaptureFixture) -> None:
    def runs(count: int, *numbers_right: int) -> np.ndarray:
        return np.array([[index < number for index in range(count)] for number in numbers_right])

    questions = [encoded(torch.zeros(choices, 1), 0) for choices in (2, 4)]
    splits = {"validation": questions, "test": questions * 5}
    results = {
        "two": {"validation": runs(4, 1, 3), "test": runs(10, 5, 9)},
        "one": {"validation": runs(4, 1), "test": runs(10, 7)},
    }
    lab_multiple_choice.print_table(results, splits)
    *_, chance, two, one = capsys.readouterr().out.splitlines()
    z, count, mean = 1.959964, 10, 0.7  # Wilson's formula
    centre = (mean + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(mean * 0.3 / count + z**2 / (4 * count**2))
    interval = [f"{centre - half:.3f}", f"{centre + half:.3f}"]
    assert re.findall(r"\d\.\d{3}", chance) == ["0.375", "0.375"]
    assert re.findall(r"\d\.\d{3}", two) == ["0.500", "0.354", "0.700", "0.283", *interval]
    assert re.findall(r"\d\.\d{3}", one) == ["0.250", "0.700", *interval]


@pytest.mark.slow
def test_output_is_recorded(run: Run) -> None:
    folder = SHARED / "data" / "openbookqa"
    if not folder.exists():
        pytest.skip("OpenBookQA is not on this machine")
    output = run("lab_multiple_choice", "--data", folder)[1]
    expected = (EXPECTED / "lab_multiple_choice.txt").read_text(encoding="utf-8")
    numbers = [[float(x) for x in re.findall(r"\d+\.\d+", text)] for text in (output, expected)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.02)
