"""The laboratory's exercises 3.1 to 3.3: features, classifying, choosing, retrieving."""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import tqdm
from conftest import Pair, load_pair
from hypothesis import given, settings
from hypothesis import strategies as st

import common
import lab_classifier
import lab_multiple_choice
import lab_retrieval
import task07
from lab_multiple_choice import Question

CPU = torch.device("cpu")
WORDS = re.findall(r"[a-z]+", task07.CONTEXT.lower())  # that the tiny encoder knows
TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(40)]


@pytest.fixture
def encoder(checkpoints: Path) -> Path:
    """Find a tiny encoder."""
    return checkpoints / task07.EXTRACTIVE_MODEL.name


@pytest.fixture
def pair(encoder: Path) -> Pair:
    return load_pair(encoder, "AutoModel")


# Features


def test_features_are_those_of_the_text_alone_in_the_order_of_the_texts(pair: Pair) -> None:
    model, tokenizer = pair
    features = common.encode(model, tokenizer, TEXTS, lab_classifier.POOLS)
    for place, text in enumerate(TEXTS):
        with torch.inference_mode():
            output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        layers = [state[0].numpy() for state in output.hidden_states]  # (time, width)
        means, maxima = ([f(layer, axis=0) for layer in layers] for f in (np.mean, np.max))
        for pool, expected in (
            ("[CLS]", layers[-1][0]),
            ("mean", means[-1]),
            ("layers", np.concatenate([*means, *maxima])),
        ):
            np.testing.assert_allclose(features[pool][place], expected, atol=2e-6)


def test_features_are_computed_once_for_what_they_depend_on(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = pair
    computed = []
    compute = common.compute_features
    monkeypatch.setattr(
        common, "compute_features", lambda *given: computed.append(given) or compute(*given)
    )
    pools = {"mean": common.mean_token}

    def features(texts: list[str], pools: dict[str, common.Pool] = pools) -> np.ndarray:
        return next(iter(common.encode(model, tokenizer, texts, pools).values()))

    first = features(TEXTS[:3])
    assert np.array_equal(first, features(TEXTS[:3]))
    assert len(computed) == 1
    assert not np.array_equal(first, features(TEXTS[:3], {"[CLS]": common.first_token}))
    assert features(TEXTS[:2]).shape == (2, 32)
    for path in (common.RESULTS / "features").iterdir():
        path.write_bytes(path.read_bytes()[:-100])  # damaged, so no longer of any use
    assert np.array_equal(first, features(TEXTS[:3]))
    assert len(computed) == 4
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    assert not np.array_equal(first, features(TEXTS[:3]))
    assert len(computed) == 5


def test_who_wants_no_bars_gets_the_same_features(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, pools = common.tokenize(pair[1], TEXTS), {"mean": common.mean_token}
    expected = common.compute_features(pair[0], ids, pools)["mean"]
    monkeypatch.setattr(tqdm, "tqdm", partial(tqdm.tqdm, disable=True))
    assert np.array_equal(common.compute_features(pair[0], ids, pools)["mean"], expected)


def test_an_encoder_without_padding_tokens_will_do(checkpoints: Path) -> None:
    folder = checkpoints / "openai-community/gpt2"
    model, tokenizer = load_pair(folder, "AutoModel")
    pools = {"mean": common.mean_token}
    together = common.encode(model, tokenizer, TEXTS[:5], pools)["mean"]
    for text, features in zip(TEXTS, together, strict=False):
        alone = common.encode(model, tokenizer, [text], pools)["mean"][0]
        np.testing.assert_allclose(features, alone, atol=2e-6)


@given(rows=st.integers(1, 400), size=st.integers(1, 50), epochs=st.integers(1, 3))
def test_batches_hold_every_row_once_an_epoch(rows: int, size: int, epochs: int) -> None:
    for lengths in (None, [i * 7 % 13 for i in range(rows)]):
        batches = common.random_batches(rows, size, epochs, lengths)
        assert max(map(len, batches)) <= size
        assert len(batches) == epochs * -(-rows // size)
        assert sorted(chain.from_iterable(batches)) == sorted([*range(rows)] * epochs)


def test_rows_of_like_length_share_a_batch() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(1, 200, (1000,)).tolist()

    def padded(batches: list[list[int]]) -> int:
        return sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)

    assert padded(common.random_batches(1000, 10, 1, lengths)) < 1.1 * sum(lengths)
    assert padded(common.random_batches(1000, 10, 1)) > 1.5 * sum(lengths)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "the file is empty"),
        ('{"a": 1}\nnonsense\n', "line 2 is not JSON"),
        ('{"a": "1"}\n', "line 1 has no 'a' that is a int"),
        ("[]\n", "line 1 has no 'a' that is a int"),
    ],
)
def test_a_wrong_line_of_json_is_named(tmp_path: Path, content: str, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(common.ScriptError, match=f"rows.jsonl: {line}"):
        common.read_jsonl(path, a=int)


# Classifying


def table(texts: list[str], labels: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"text": texts, "label": labels})


def write_dataset(folder: Path, rows: int = 60) -> Path:
    """Write texts whose label is said by one of their words."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        lines = [
            f"{split} {row} {random.choice(WORDS)} {'good' if row % 3 else 'bad'}"
            for row in range(rows)
        ]
        labels = ["bad" if line.endswith("bad") else "good" for line in lines]
        table(lines, labels).to_csv(folder / f"{split}.csv", index=False)
    return folder


def test_texts_seen_before_are_counted_and_left_out(capsys: pytest.CaptureFixture) -> None:
    splits = {
        "train": table(["a b", "A  b", "c", "d", "e"], ["x", "y", "x", "x", "x"]),
        "validation": table(["C", "f", "g"], ["x", "x", "y"]),
        "test": table(["f", "d ", "h"], ["x", "x", "x"]),
    }
    kept = lab_classifier.leave_out_repeated(splits)
    assert {name: rows["text"].tolist() for name, rows in kept.items()} == {
        "train": ["a b", "A  b", "e"],
        "validation": ["C", "g"],
        "test": ["f", "d ", "h"],
    }
    assert capsys.readouterr().out.splitlines() == [
        "texts more than once in train: 1, of these with several labels: 1",
        "texts more than once in validation: 0, of these with several labels: 0",
        "texts more than once in test: 0, of these with several labels: 0",
        "texts of train that are in validation or test too, left out: 2",
        "texts of validation that are in test too, left out: 1",
    ]


def test_the_weights_of_the_labels_are_scikit_learn_s() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    np.testing.assert_allclose(lab_classifier.class_weights(labels), expected)


def test_a_feature_that_never_changes_is_no_feature() -> None:
    rows = {"train": np.array([[1.0, 5.0], [3.0, 5.0]]), "test": np.array([[5.0, 5.0]])}
    standard = lab_classifier.standardise(rows)
    assert standard["train"].tolist() == [[-1, 0], [1, 0]]
    assert standard["test"].tolist() == [[3, 0]]


def test_weights_make_the_network_find_the_rare_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_classifier, "MLP_EPOCHS", 30)
    random = np.random.default_rng(0)
    labels = (np.arange(1000) % 20 == 0).astype(int)
    inputs = (random.standard_normal((1000, 2)) + labels[:, None]).astype(np.float32)
    found = []
    for weighted in (False, True):
        common.seed_everything(0)
        predict = lab_classifier.fit_mlp(inputs, labels, weighted, 0.0)
        found.append(predict(inputs)[labels == 1].mean())
    assert found[0] < 0.4 < 0.6 < found[1]


def test_a_trained_network_drops_out_nothing() -> None:
    inputs = np.random.default_rng(0).standard_normal((400, 4)).astype(np.float32)
    predict = lab_classifier.fit_mlp(inputs, (inputs[:, 0] > 0).astype(int), False, 0.9)
    assert all(np.array_equal(predict(inputs), predict(inputs)) for _ in range(5))


def test_the_setting_is_chosen_by_validation() -> None:
    labels = {name: np.array([0, 1, 1]) for name in lab_classifier.SPLITS}
    inputs = {name: np.zeros((3, 1)) for name in lab_classifier.SPLITS}

    def fit(_: np.ndarray, __: np.ndarray, ___: bool, c: float) -> lab_classifier.Classifier:
        return lambda rows: np.array([0, 1, 1] if c == 2 else [1, 1, 0])

    setting, validation, _ = lab_classifier.choose(fit, (1, 2, 3), inputs, labels, False, 0)
    assert (setting, validation.tolist()) == (2, [0, 1, 1])


def test_every_way_to_classify_has_a_row_and_words_are_enough(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = write_dataset(tmp_path / "data")
    options = ["--data", str(data), "--model", str(encoder), "--quick", "--finetune"]
    outputs = []
    for _ in range(2):  # with the features computed, then with those kept
        assert lab_classifier.main(options) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    rows = re.findall(r"^(.{10})(.{31})(.{12})((?: +\d\.\d{4}){3})$", outputs[0], re.MULTILINE)
    assert len(rows) == 1 + 2 + 3 * 4 + 1
    majority, words = rows[0][3].split(), rows[1][3].split()
    assert majority == ["0.6667", "0.6667", "0.4000"]  # F1 of good 0.8, of bad 0
    assert words == ["1.0000", "1.0000", "1.0000"]
    assert re.search(r"^bad +1\.0000 +1\.0000 +1\.0000 +20$", outputs[0], re.MULTILINE)
    assert (common.RESULTS / "lab_classifier_data.png").stat().st_size > 10_000


def test_one_file_is_split(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    table([f"text {i}" for i in range(50)], ["a", "b"] * 25).to_csv(path, index=False)
    splits = lab_classifier.read_splits(str(path), None, 0)
    assert [len(splits[name]) for name in lab_classifier.SPLITS] == [41, 4, 5]
    assert len(set().union(*(rows["text"] for rows in splits.values()))) == 50


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("text,label\n", "there are no rows"),
        ("text\na\n", "row 1: there is no column label"),
        ("text,label\na,1\n ,2\n", "row 3: no text"),
        ("text,label\na,1\nb,\n", "row 3: no label"),
        ('text,label\n"a,1\n', "not a CSV file"),
        ("text,label\na,1\nb,1\n" * 20, "too few texts|the training texts have . label"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path: Path, content: str, line: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises(common.ScriptError, match=line):
        lab_classifier.main(["--dataset", str(path), "--model", "bundled"])


def test_a_label_that_nothing_was_trained_on_is_one_line() -> None:
    splits = {"train": table(["a", "b"], ["0", "1"]), "test": table(["c"], ["2"])}
    with pytest.raises(common.ScriptError, match="no training text has the label 2 of test"):
        lab_classifier.number_labels(splits, "emotion")


def test_labels_are_named_as_in_their_data_set_and_no_other() -> None:
    few = {"train": table(["a", "b", "c"], ["0", "10", "9"])}
    numbers, names = lab_classifier.number_labels(few, "ag_news")
    assert numbers["train"].tolist() == [0, 2, 1]
    assert names == ["0", "9", "10"]
    all_four = {"train": table(["a", "b", "c", "d"], ["3", "1", "2", "0"])}
    numbers, names = lab_classifier.number_labels(all_four, "ag_news")
    assert numbers["train"].tolist() == [3, 1, 2, 0]
    assert names == ["World", "Sports", "Business", "Sci/Tech"]


# Choosing

QUESTIONS = [
    Question("which one", ["a", "b"], 1),
    Question("and now", ["c", "dd", "eee"], 0),
]


def test_a_tie_is_wrong() -> None:
    assert lab_multiple_choice.is_right(np.array([1, 3, 2]), 1)
    assert not lab_multiple_choice.is_right(np.array([1, 3, 3]), 1)
    assert not lab_multiple_choice.is_right(np.array([3, 1, 2]), 1)
    scores = [np.array([0.0, 1.0]), np.array([2.0, 2.0, 1.0])]
    assert lab_multiple_choice.accuracy(scores, QUESTIONS) == 0.5


@settings(deadline=None)  # the first one imports scipy
@given(right=st.integers(0, 500))
def test_the_interval_is_scipy_s(right: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(right, 500).proportion_ci(method="wilson")
    found = lab_multiple_choice.interval(right / 500, 500)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_scores_and_pairs_follow_the_number_of_choices() -> None:
    scores = lab_multiple_choice.per_question(np.arange(5.0), QUESTIONS)
    assert [each.tolist() for each in scores] == [[0, 1], [2, 3, 4]]
    assert lab_multiple_choice.ranking_pairs(QUESTIONS).tolist() == [[1, 0], [2, 3], [2, 4]]


def test_shuffling_moves_the_choices_and_keeps_the_right_one() -> None:
    random = np.random.default_rng(0)
    questions = [Question("?", ["yes", "no", "never", "nowhere"], 0)] * 400
    shuffled = lab_multiple_choice.shuffle(questions, random)
    assert all(question.choices[question.answer] == "yes" for question in shuffled)
    places = np.bincount([question.answer for question in shuffled])
    assert places.min() > 70
    assert all(sorted(question.choices) == sorted(questions[0].choices) for question in shuffled)


def test_the_data_sets_of_the_hub_are_read() -> None:
    labels = np.array(["A", "B"])
    choices = {"text": np.array(["x", "y"]), "label": labels}
    expected = Question("Q", ["x", "y"], 1)
    for row in (
        {"id": "1", "question_stem": "Q", "choices": choices, "answerKey": "B"},
        {"id": "1", "question": "Q", "question_concept": "c", "choices": choices, "answerKey": "B"},
    ):
        assert lab_multiple_choice.from_hub(pd.Series(row)) == expected
    swag = {"sent1": "He runs.", "sent2": "She", "label": 3}
    swag |= {f"ending{number}": f"e{number}" for number in range(4)}
    assert lab_multiple_choice.from_hub(pd.Series(swag)) == Question(
        "He runs. She", ["e0", "e1", "e2", "e3"], 3
    )


def test_the_ranker_learns_what_sets_right_choices_apart() -> None:
    random = np.random.default_rng(0)
    questions = [
        Question("?", ["x"] * count, int(random.integers(count)))
        for count in random.integers(2, 6, 200)
    ]
    right = np.concatenate([np.arange(len(each.choices)) == each.answer for each in questions])
    features = random.standard_normal((len(right), 8)).astype(np.float32)
    features[:, 3] += 3 * right
    common.seed_everything(0)
    score = lab_multiple_choice.train_ranker(features, questions, 0.1)
    scores = lab_multiple_choice.per_question(score(features), questions)
    assert lab_multiple_choice.accuracy(scores, questions) > 0.9


def test_a_choice_s_score_does_not_depend_on_other_questions(pair: Pair, encoder: Path) -> None:
    model = common.add_head(encoder, "AutoModelForMultipleChoice", CPU).eval()
    with torch.inference_mode():
        together = lab_multiple_choice.joint_scores(model, pair[1], QUESTIONS)
        alone = [lab_multiple_choice.joint_scores(model, pair[1], [each]) for each in QUESTIONS]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_every_way_to_choose_has_a_row(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for split in ("train", "test"):
        rows = [
            {"question": TEXTS[i % 40], "choices": [*TEXTS[i % 9 : i % 9 + 2 + i % 3]], "answer": 1}
            for i in range(30)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--data", str(tmp_path), "--model", str(encoder), "--quick", "--finetune"]
    outputs = []
    for _ in range(2):
        assert lab_multiple_choice.main(options) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    lines = outputs[0].splitlines()
    assert lines[0] == "27 train, 3 validation, 30 test questions"
    assert lines[3].split()[::2] == ["chance", f"{(1 / 2 + 1 / 3 + 1 / 4) / 3:.3f}"]
    rows = [
        re.fullmatch(r"(.{36}) +([\d.]+) +([\d.]+)  ([\d.]+) to ([\d.]+)", x) for x in lines[4:]
    ]
    assert len(rows) == 6
    assert all(float(row[4]) <= float(row[3]) <= float(row[5]) for row in rows)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"question": "?", "choices": ["a"], "answer": 0}, "choices are two texts or more"),
        ({"question": "?", "choices": ["a", 2], "answer": 0}, "choices are two texts or more"),
        (
            {"question": "?", "choices": ["a", "b"], "answer": 2},
            "answer 2 is none of its 2 choices",
        ),
        ({"question": "?", "choices": ["a", "b"]}, "line 1 has no 'answer' that is a int"),
    ],
)
def test_a_wrong_question_is_one_line(tmp_path: Path, row: dict, line: str) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row))
    with pytest.raises(common.ScriptError, match=line):
        lab_multiple_choice.main(["--data", str(tmp_path)])


# Retrieving


def rankings(random: np.random.Generator) -> tuple[np.ndarray, dict[int, int]]:
    """Draw the scores of 30 documents, all different, and how relevant some of them are."""
    relevant = random.choice(30, random.integers(1, 15), replace=False)
    gains = {int(place): int(random.integers(1, 4)) for place in relevant}
    return random.permutation(30) + 1.0, gains  # torchmetrics leaves out what scores 0


def test_the_measures_by_hand() -> None:
    ranking, relevant = np.array([5, 3, 8, 1]), {3: 1, 1: 1, 7: 1}
    best = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    found = 1 / np.log2(3) + 1 / np.log2(5)
    assert lab_retrieval.ndcg(ranking, relevant) == pytest.approx(found / best)
    assert lab_retrieval.recall(ranking, relevant, 2) == 1 / 3
    assert lab_retrieval.recall(ranking, relevant, 4) == 2 / 3
    assert lab_retrieval.reciprocal_rank(ranking, relevant) == 1 / 2
    assert lab_retrieval.reciprocal_rank(ranking, {9: 1}) == 0


@settings(deadline=None)  # the first one imports torchmetrics
@given(seed=st.integers(0, 10_000))
def test_the_measures_are_torchmetrics_s(seed: int) -> None:
    from torchmetrics.functional import retrieval

    scores, relevant = rankings(np.random.default_rng(seed))
    ranking = lab_retrieval.best_documents(scores)
    predictions = torch.from_numpy(scores)
    gains = torch.tensor([relevant.get(place, 0) for place in range(30)])
    gain = retrieval.retrieval_normalized_dcg(predictions, gains, 10).item()
    assert lab_retrieval.ndcg(ranking, relevant) == pytest.approx(gain, abs=1e-6)
    for depth in (10, 100):
        recall = retrieval.retrieval_recall(predictions, gains > 0, depth).item()
        assert lab_retrieval.recall(ranking, relevant, depth) == pytest.approx(recall, abs=1e-6)
    rank = retrieval.retrieval_reciprocal_rank(predictions, gains > 0, 10).item()
    assert lab_retrieval.reciprocal_rank(ranking, relevant) == pytest.approx(rank, abs=1e-6)


def test_fusions_by_hand() -> None:
    words, meaning = np.array([[3.0, 1.0, 2.0]]), np.array([[0.1, 0.3, 0.2]])
    ranks = lab_retrieval.reciprocal_ranks(words, meaning)
    np.testing.assert_allclose(ranks, [[1 / 61 + 1 / 63, 1 / 63 + 1 / 61, 2 / 62]])
    both = lab_retrieval.weighted_sum(words, meaning, 0.5)
    np.testing.assert_allclose(both, [[0, 0, 0]], atol=1e-6)
    alone = lab_retrieval.weighted_sum(words, meaning, 1.0)
    np.testing.assert_allclose(alone, [np.array([1, -1, 0]) * np.sqrt(1.5)])
    nothing = lab_retrieval.standardise(np.zeros((1, 3)))
    assert nothing.tolist() == [[0, 0, 0]]
    assert lab_retrieval.choose_weight(words, meaning, {0: {1: 1}}) < 0.5
    assert lab_retrieval.choose_weight(words, meaning, {0: {0: 1}}) > 0.5


def test_an_abstract_is_split_into_sentences() -> None:
    text = "Cells grow. In vitro (n = 3.5) they do, cf. table 2. 12 did not! Why?"
    assert lab_retrieval.split_sentences(text) == [
        "Cells grow.",
        "In vitro (n = 3.5) they do, cf. table 2.",
        "12 did not!",
        "Why?",
    ]


def write_collection(folder: Path) -> Path:
    """Write documents of words drawn at random, and claims that repeat one of them in part."""
    random = np.random.default_rng(0)
    (folder / "qrels").mkdir(parents=True)
    abstracts = [" ".join(random.choice(WORDS, 12)) + ". End here." for _ in range(40)]
    documents = [
        {"_id": f"d{i}", "title": f"Number {i}", "text": text} for i, text in enumerate(abstracts)
    ]
    claims = [
        {"_id": f"c{i}", "text": " ".join(abstracts[i].split()[3:9])} for i in range(len(abstracts))
    ]
    for name, rows in (("corpus", documents), ("queries", claims)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for split, places in (("train", range(20)), ("test", range(20, 40))):
        lines = "".join(f"c{i}\td{i}\t1\n" for i in places)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    return folder


def test_every_way_to_retrieve_has_a_row_and_a_query_finds_its_document(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = write_collection(tmp_path / "data")
    options = ["--quick", "--data", str(data), "--model", str(encoder)]
    outputs = []
    for _ in range(2):  # trained, then with the encoder and the features kept
        assert lab_retrieval.main(options) == 0
        printed = capsys.readouterr()
        outputs.append(printed.out)
    assert outputs[0] == outputs[1]
    assert "using the encoder trained before" in printed.err
    rows = re.findall(r"^(.{36})((?: +[01]\.\d{4}){4})$", outputs[0], re.MULTILINE)
    assert len(rows) == 7
    assert rows[0][0].startswith("BM25, k1")
    assert float(rows[0][1].split()[0]) > 0.9
    abstract = json.loads((data / "corpus.jsonl").read_text().splitlines()[30])["text"]
    query, _ = lab_retrieval.split_sentences(abstract)
    assert lab_retrieval.main([*options, "--query", query]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * lab_retrieval.SHOWN
    place = next(i for i, line in enumerate(lines) if line.endswith("  Number 30"))
    assert lines[place + 1] == f"   1.000  {query}"
    (common.RESULTS / "lab_retrieval_quick.safetensors").write_bytes(b"nonsense")
    assert lab_retrieval.main(options) == 0
    assert capsys.readouterr().out == outputs[0]


def test_training_brings_a_claim_nearer_to_its_document(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_retrieval, "RATE", 1e-3)
    model, tokenizer = pair
    collection = lab_retrieval.read_collection(write_collection(tmp_path / "data"))
    ids = (
        common.tokenize(tokenizer, collection.claims),
        common.tokenize(tokenizer, collection.documents()),
    )

    def worth() -> float:
        sides = (common.compute_features(model, side, lab_retrieval.MEAN)["mean"] for side in ids)
        train = collection.qrels["train"]
        return lab_retrieval.mean_ndcg(lab_retrieval.cosines(*sides)[list(train)], train)

    before = worth()
    words = lab_retrieval.bm25(
        lab_retrieval.split_words(collection.documents()), collection.claims, 1.5, 0.75
    )
    common.seed_everything(0)
    lab_retrieval.train_encoder(model, tokenizer, collection, words, 20)
    assert worth() > max(0.9, before + 0.1)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("corpus.jsonl", '{"_id": "1", "text": "x"}', "line 1 has no 'title' that is a str"),
        ("qrels/test.tsv", "query-id\tcorpus-id\nc1\td1\n", "the columns are not query-id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nc1\td99\t1\n", "row 2: .* document 'd99'"),
        ("qrels/train.tsv", "query-id\tcorpus-id\tscore\nc1\td1\t0\n", "no document is relevant"),
        ("qrels/train.tsv", "", "the file is empty"),
    ],
)
def test_a_wrong_collection_is_one_line(tmp_path: Path, name: str, content: str, line: str) -> None:
    folder = write_collection(tmp_path / "data")
    (folder / name).write_text(content)
    with pytest.raises(common.ScriptError, match=line):
        lab_retrieval.main(["--data", str(folder), "--query", "a question"])
