"""Lab exercise 3.3: measures, fusion, the linear map, and what may choose its settings."""

import json
import math
import re
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata
from torch.nn.functional import normalize

import common
import lab_retrieval
from conftest import Run, only_line
from lab_data import Claim
from lab_retrieval import LinearMap, Setting, Split

SETTING = Setting(2, 1e-2, 0.1)


@pytest.fixture
def split() -> Split:
    """Return 12 claims with random features; each is about one of 8 documents."""
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    claims = [Claim(f"claim {row}", {row % 8: 1}) for row in range(12)]
    bm25_scores = np.random.default_rng(0).standard_normal((12, 8))
    return Split(claims, lab_retrieval.standardise(bm25_scores), [*features])


@pytest.fixture
def documents() -> torch.Tensor:
    """Return the vectors of 8 documents."""
    return normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(1)))


WORDS = [
    *("gene", "cell", "virus", "heart", "lung", "bone", "blood", "nerve", "skin", "liver", "brain"),
    *("muscle", "insulin", "protein", "enzyme", "tumour", "vaccine", "mouse", "infant", "smoker"),
    *("patient", "vitamin", "steroid", "antibody", "plasma", "kidney", "artery"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a collection in BEIR's form: 40 documents of random words, and 60 claims about them.

    Claim 41 is about document 1. There are 30 claims to train on, about documents 0 to 29.
    """
    generator = np.random.default_rng(0)
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    texts = [" ".join(generator.choice(WORDS, 8)) + ". A second sentence." for _ in range(40)]
    claims = [
        " ".join([*texts[row % 40].split()[2:5], *generator.choice(WORDS, 3)]) for row in range(60)
    ]
    write_jsonl(folder / "corpus.jsonl", "d", texts)
    write_jsonl(folder / "queries.jsonl", "c", claims)
    write_judgements(folder, "train", {row: row for row in range(30)})
    write_judgements(folder, "test", {row: row % 40 for row in range(30, 60)})
    return folder


def write_jsonl(path: Path, letter: str, texts: list[str]) -> None:
    rows = [{"_id": f"{letter}{i}", "title": f"T{i}", "text": text} for i, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def write_judgements(folder: Path, split: str, pairs: dict[int, int]) -> None:
    lines = "".join(f"c{claim}\td{document}\t1\n" for claim, document in pairs.items())
    path = folder / "qrels" / f"{split}.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\n{lines}", encoding="utf-8")


# --- Measures and fusion, against plain loops -----------------------------------------------------


def test_measures_equal_those_worked_out_from_the_sorted_documents() -> None:
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 6, (30, 25)).astype(float)  # with ties
    claims = [
        Claim("", {int(d): int(generator.integers(1, 3)) for d in generator.choice(25, 3, False)})
        for _ in range(30)
    ]
    for row, claim in enumerate(claims):
        order = sorted(range(25), key=lambda d: (-scores[row, d], d))
        gain = sum(claim.relevant.get(d, 0) / math.log2(r + 2) for r, d in enumerate(order[:10]))
        grades = sorted(claim.relevant.values(), reverse=True)
        ideal = sum(grade / math.log2(r + 2) for r, grade in enumerate(grades))
        found = [r for r, d in enumerate(order) if d in claim.relevant]
        one = scores[row : row + 1], [claim]
        assert lab_retrieval.ndcg(*one) == pytest.approx([gain / ideal])
        assert lab_retrieval.recall(*one, 5) == pytest.approx([sum(r < 5 for r in found) / 3])
        expected = 1 / (found[0] + 1) if found[0] < 10 else 0
        assert lab_retrieval.reciprocal_rank(*one) == pytest.approx([expected])


def test_fusion_is_the_weighted_sum_of_standardised_scores() -> None:
    first, second = np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 0.0, 9.0]])
    found = lab_retrieval.fuse(*map(lab_retrieval.standardise, (first, second)), 0.25)
    expected = 0.25 * (first - 2) / first.std() + 0.75 * (second - 3) / second.std()
    assert found == pytest.approx(expected)


def test_claim_without_a_word_of_the_documents_has_finite_scores() -> None:
    assert lab_retrieval.standardise(np.zeros((1, 3))).tolist() == [[0, 0, 0]]


def test_weight_with_the_best_ndcg_is_chosen() -> None:
    claims = [Claim("", {0: 1})]
    right, wrong = np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 8.0, 8.0]])
    assert lab_retrieval.choose_weight(right, wrong, claims) == 0.9  # 0.9 * 1 > 0.1 * 8
    assert lab_retrieval.choose_weight(wrong, right, claims) == 0.0


def test_reciprocal_rank_fusion_adds_1_over_60_plus_rank() -> None:
    scores = [np.array([[3.0, 1.0, 1.0]]), np.array([[0.1, 0.2, 0.3]])]
    ranks = [rankdata(-each[0]) for each in scores]
    expected = [sum(1 / (60 + rank[document]) for rank in ranks) for document in range(3)]
    assert lab_retrieval.reciprocal_rank_fusion(*scores)[0] == pytest.approx(expected)


def test_bm25_ranks_the_document_with_the_rare_word_first_and_knows_claims_of_stop_words() -> None:
    words = lab_retrieval.split_words(["gene of mice", "mice eat mice", "mice sleep"])
    scores = lab_retrieval.bm25(words, ["the gene in mice", "is the"], 1.2, 0.4)
    assert scores[0].argmax() == 0
    assert scores[1].tolist() == [0, 0, 0]


# --- The map --------------------------------------------------------------------------------------


def test_map_starts_as_the_identity(split: Split, documents: torch.Tensor) -> None:
    scores = lab_retrieval.dense_scores(LinearMap(4), split.inputs, documents)
    cosines = (normalize(torch.stack(split.inputs)) @ documents.T).numpy()
    assert scores == pytest.approx(lab_retrieval.standardise(cosines), abs=1e-5)


def test_training_brings_claims_closer_to_their_documents_and_keeps_its_start(
    split: Split, documents: torch.Tensor
) -> None:
    start = LinearMap(4)
    trained = lab_retrieval.train(start, split, documents, Setting(100, 2e-2, 0.5), seed=0)
    relevant = [next(iter(claim.relevant)) for claim in split.claims]
    before, after = (
        lab_retrieval.dense_scores(model, split.inputs, documents)[range(12), relevant]
        for model in (start, trained)
    )
    assert after.mean() > before.mean() + 0.2
    assert torch.equal(start.weight, torch.eye(4))


def test_loss_is_the_mean_over_the_relevant_documents_among_all_documents(
    split: Split, documents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []

    def record(model: Any, batch_loss: Any, *_: Any, **__: Any) -> None:
        losses.append(batch_loss([3]).item())

    monkeypatch.setattr(lab_retrieval.lab_common, "train", record)
    split.claims[3] = Claim("", {1: 1, 5: 2})
    lab_retrieval.train(LinearMap(4), split, documents, SETTING, seed=0)
    cosines = normalize(split.inputs[3], dim=0) @ documents.T
    log_probabilities = (cosines / SETTING.temperature).log_softmax(0)
    assert losses == [pytest.approx(-log_probabilities[[1, 5]].mean().item())]


def test_interpolation_mixes_the_weights() -> None:
    start, trained = LinearMap(2), LinearMap(2)
    trained.weight.data = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
    mixed = lab_retrieval.interpolate(start, trained, 0.25).weight
    assert mixed.tolist() == [[1.5, 0.25], [0.0, 1.0]]
    assert torch.equal(start.weight, torch.eye(2))


# --- What may choose a setting --------------------------------------------------------------------


def test_folds_share_no_document() -> None:
    generator = np.random.default_rng(0)
    pairs = [generator.choice(40, 2, replace=False).tolist() for _ in range(25)]
    claims = [Claim("", dict.fromkeys(pair, 1)) for pair in [*pairs, *([i] for i in range(40, 60))]]
    folds = lab_retrieval.disjoint_folds(claims, 60)
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == [*range(45)]
    for kept, held_out in folds:
        known, asked = ({d for i in rows for d in claims[i].relevant} for rows in (kept, held_out))
        assert not known & asked


@pytest.fixture
def seen(split: Split, monkeypatch: pytest.MonkeyPatch) -> list[tuple[set[str], list[str]]]:
    """Return a list of each ranking's claims, before them those that its map is trained on.

    The maps rank all claims equally.
    """
    names = {id(row): claim.text for row, claim in zip(split.inputs, split.claims, strict=True)}
    rankings: list[tuple[set[str], list[str]]] = []

    def train(start: Any, part: Split, *_: Any) -> LinearMap:
        model = LinearMap(4)
        model.known = {claim.text for claim in part.claims}
        assert model.known == {names[id(row)] for row in part.inputs}
        return model

    def dense_scores(model: Any, inputs: list, documents: torch.Tensor) -> np.ndarray:
        rankings.append((model.known, [names[id(row)] for row in inputs]))
        return np.zeros((len(inputs), len(documents)))

    monkeypatch.setattr(lab_retrieval, "train", train)
    monkeypatch.setattr(lab_retrieval, "interpolate", lambda start, trained, a: trained)
    monkeypatch.setattr(lab_retrieval, "dense_scores", dense_scores)
    return rankings


def test_a_and_weight_are_chosen_with_maps_that_have_not_seen_the_claims(
    split: Split, documents: torch.Tensor, seen: list[tuple[set[str], list[str]]]
) -> None:
    lab_retrieval.choose(LinearMap(4), split, documents, SETTING, seed=0)
    assert len(seen) == (len(lab_retrieval.A) + 1) * lab_retrieval.FOLDS  # + 1 for the weight
    assert not any(known & set(asked) for known, asked in seen)


def test_weight_is_chosen_with_the_bm25_scores_of_the_held_out_claims_in_their_order(
    split: Split, documents: torch.Tensor, seen: Any
) -> None:
    relevant = [[float(index in claim.relevant) for index in range(8)] for claim in split.claims]
    split = split._replace(bm25=np.array(relevant))
    # the maps know nothing, so only BM25 decides
    _, weight, values = lab_retrieval.choose(LinearMap(4), split, documents, SETTING, seed=0)
    assert weight > 0
    assert max(values) < 0.8


def test_a_has_the_best_ndcg_of_the_held_out_claims(split: Split, documents: torch.Tensor) -> None:
    setting = Setting(60, 3e-2, 0.1)
    a, _, values = lab_retrieval.choose(LinearMap(4), split, documents, setting, seed=0)
    assert values[lab_retrieval.A.index(a)] == max(values) > min(values)


def test_test_judgements_change_no_choice_and_no_weight(folder: Path, run: Run) -> None:
    saved = []
    for step in (1, 7):
        write_judgements(folder, "test", {row: row * step % 40 for row in range(30, 60)})
        code, out, err = run("lab_retrieval", "--data", folder)
        assert code == 0, err
        content = common.load_tensors(common.RESULTS / f"lab_retrieval_{folder.name}.pt")
        names = re.findall(r"^((?:BM25|map).*?)\s{2,}", out, re.MULTILINE)  # with the settings
        saved.append((content.pop("map"), content.pop("documents"), content, names))
    assert torch.equal(saved[0][0], saved[1][0])
    assert saved[0][2:] == saved[1][2:]


def test_a_of_0_is_the_untrained_ranking(folder: Path, run: Run) -> None:
    _, out, _ = run("lab_retrieval", "--data", folder)
    untrained = only_line(out, "mean cosine  ").split()
    assert only_line(out, "0.0  ").split()[2:] == [untrained[2], untrained[6]]


def test_new_claims_are_those_about_documents_that_no_training_claim_cites(
    folder: Path, run: Run
) -> None:
    _, out, _ = run("lab_retrieval", "--data", folder)
    only_line(out, "40 documents; 30 claims to train on, 30 to test on, 10 of them about new d")


def test_a_test_claim_is_not_trained_on(folder: Path, run: Run) -> None:
    rows = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    rows[30] = rows[0].replace('"c0"', '"c30"')  # another id, the same text
    (folder / "queries.jsonl").write_text("\n".join(rows), encoding="utf-8")
    write_judgements(folder, "test", {30: 0, 31: 31})
    _, out, _ = run("lab_retrieval", "--data", folder)
    only_line(out, "40 documents; 29 claims to train on, 2 to test on")


def test_interval_is_that_of_the_paired_differences(capsys: pytest.CaptureFixture) -> None:
    first, second = (
        [pd.DataFrame({"nDCG@10": values})] for values in ([0.1, 0.5, 0.9], [0.0, 0.4, 0.8])
    )
    is_new = np.array([True, False, False])
    lab_retrieval.print_difference({"x": first, "y": second}, "x", "y", is_new)
    err = capsys.readouterr().err  # each claim gains the same
    assert "all claims +0.100 (+0.100 to +0.100), new abstracts +0.100 (+0.100 to +0.100)" in err


# --- Queries --------------------------------------------------------------------------------------


def test_query_prints_the_best_documents_after_a_run_and_no_control_characters(
    folder: Path, run: Run
) -> None:
    path = folder / "corpus.jsonl"
    text = path.read_text(encoding="utf-8").replace('"T3"', '"T3\\u001b]0;x"')
    path.write_text(text, encoding="utf-8")
    sentence = json.loads(text.splitlines()[3])["text"].partition(".")[0]
    query = "--query", sentence, "--data", folder
    code, out, err = run("lab_retrieval", *query)
    assert (code, out) == (1, "")
    only_line(err, "run the script once without --query")
    assert run("lab_retrieval", "--data", folder)[0] == 0
    code, out, _ = run("lab_retrieval", *query)
    assert (code, len(out.splitlines())) == (0, 2 * lab_retrieval.SHOWN)
    assert out.splitlines()[0].endswith("  T3 ]0;x")
    assert out.splitlines()[1] == f"        {sentence}."
    assert "\x1b" not in out


def test_query_of_stop_words_has_an_answer(folder: Path, run: Run) -> None:
    assert run("lab_retrieval", "--data", folder)[0] == 0
    code, out, _ = run("lab_retrieval", "--data", folder, "--query", "to be or not to be")
    assert (code, len(out.splitlines())) == (0, 2 * lab_retrieval.SHOWN)


def test_a_run_for_other_documents_is_not_used_for_a_query(folder: Path, run: Run) -> None:
    assert run("lab_retrieval", "--data", folder)[0] == 0
    text = (folder / "corpus.jsonl").read_text(encoding="utf-8")
    (folder / "corpus.jsonl").write_text(text.replace("heart", "hand"), encoding="utf-8")
    code, out, err = run("lab_retrieval", "--data", folder, "--query", "gene")
    assert (code, out) == (1, "")
    only_line(err, "saved for other documents or another model; run the script again without")


def test_each_data_set_has_its_own_file(folder: Path, run: Run, tmp_path: Path) -> None:
    assert run("lab_retrieval", "--data", folder)[0] == 0
    other = copytree(folder, tmp_path / "other")
    code, _, err = run("lab_retrieval", "--data", other, "--query", "gene")
    assert code == 1
    only_line(err, "run the script once without --query")
