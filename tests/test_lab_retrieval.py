"""Lab exercise 3.3: measures, fusion, the linear map, and what may choose its settings."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import nn

import common
import lab_retrieval
from conftest import Run
from lab_data import Claim
from lab_retrieval import LinearMap, Setting

SETTING = Setting(2, 1e-2, 0.1)


@pytest.fixture
def random_data() -> tuple[list[torch.Tensor], list[Claim], torch.Tensor]:
    """Return the features of 12 claims, the claims, and the vectors of 8 documents."""
    generator = torch.Generator().manual_seed(0)
    features = [*torch.randn(12, 4, generator=generator)]
    documents = nn.functional.normalize(torch.randn(8, 4, generator=generator))
    claims = [Claim(f"claim {i}", {i % 8: 1}) for i in range(12)]
    return features, claims, documents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a collection in BEIR's form: 20 documents, and claims about each."""
    (tmp_path / "qrels").mkdir()
    words = ["gene", "cell", "virus", "heart", "lung", "bone", "blood", "nerve", "skin", "liver"]
    texts = [f"The {a} and the {b} are studied." for a in words for b in ("mouse", "human")]
    write_jsonl(tmp_path / "corpus.jsonl", "d", [f"{text} A second sentence." for text in texts])
    write_jsonl(tmp_path / "queries.jsonl", "c", [f"Is it true? {text}" for text in texts])
    for split, rows in (("train", range(14)), ("test", range(12, 20))):
        lines = "".join(f"c{row}\td{row}\t1\n" for row in rows)
        path = tmp_path / "qrels" / f"{split}.tsv"
        path.write_text(f"query-id\tcorpus-id\tscore\n{lines}", encoding="utf-8")
    return tmp_path


def write_jsonl(path: Path, letter: str, texts: list[str]) -> None:
    rows = [{"_id": f"{letter}{i}", "title": f"T{i}", "text": text} for i, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


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


def test_weighted_sum_adds_standardised_scores() -> None:
    first, second = np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 0.0, 9.0]])
    expected = 0.25 * (first - 2) / first.std() + 0.75 * (second - 3) / second.std()
    assert lab_retrieval.weighted_sum(first, second, 0.25) == pytest.approx(expected)
    nothing = np.zeros((1, 3))  # a claim without a word of the documents
    assert np.isfinite(lab_retrieval.weighted_sum(nothing, second, 0.5)).all()


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


def test_map_starts_as_the_identity(random_data: Any) -> None:
    features, _, documents = random_data
    cosines = lab_retrieval.cosine_scores(LinearMap(4), features, documents)
    expected = nn.functional.normalize(torch.stack(features)) @ documents.T
    assert cosines == pytest.approx(expected.numpy(), abs=1e-6)


def test_training_brings_claims_closer_to_their_documents_and_keeps_its_start(
    random_data: Any,
) -> None:
    features, claims, documents = random_data
    start = LinearMap(4)
    trained = lab_retrieval.train(start, features, claims, documents, Setting(60, 1e-2, 0.1))
    before, after = (
        lab_retrieval.cosine_scores(model, features, documents)[range(12), [*range(8), *range(4)]]
        for model in (start, trained)
    )
    assert after.mean() > before.mean() + 0.1
    assert torch.equal(start.weight, torch.eye(4))


def test_loss_divides_the_probability_among_the_relevant_documents(
    random_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, _, documents = random_data
    losses = []
    monkeypatch.setattr(
        lab_retrieval.lab_common,
        "train",
        lambda model, batch_loss, *_, **__: losses.append(batch_loss([0]).item()),
    )
    claims = [Claim("", {1: 1, 5: 2})]
    lab_retrieval.train(LinearMap(4), features[:1], claims, documents, SETTING)
    cosines = nn.functional.normalize(features[0], dim=0) @ documents.T
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
    claims = [
        Claim("", dict.fromkeys(map(int, generator.choice(40, 2, False)), 1)) for _ in range(25)
    ]
    claims += [Claim("", {document: 1}) for document in range(40, 60)]
    folds = lab_retrieval.disjoint_folds(claims, 60)
    held_out = np.concatenate([second for _, second in folds])
    assert sorted(held_out) == list(range(45))
    for kept, others in folds:
        documents = [{d for i in part for d in claims[i].relevant} for part in (kept, others)]
        assert not documents[0] & documents[1]
        assert not set(kept) & set(others)


def test_held_out_claims_are_ranked_by_a_map_that_has_not_seen_them(
    random_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, claims, documents = random_data
    seen = []

    def train(start: Any, inputs: list, rows: list[Claim], *_: Any) -> LinearMap:
        model = LinearMap(4)
        model.known = {claim.text for claim in rows}
        assert len(inputs) == len(rows)
        return model

    def cosine_scores(model: Any, inputs: list, _: Any) -> np.ndarray:
        names = [next(i for i in range(12) if features[i] is row) for row in inputs]
        seen.extend(model.known & {f"claim {name}" for name in names})
        return np.zeros((len(inputs), 8), np.float32)

    monkeypatch.setattr(lab_retrieval, "train", train)
    monkeypatch.setattr(lab_retrieval, "cosine_scores", cosine_scores)
    monkeypatch.setattr(lab_retrieval, "interpolate", lambda start, trained, a: trained)
    lab_retrieval.choose_a(LinearMap(4), features, claims, documents, SETTING)
    assert seen == []


def test_a_is_the_one_with_the_best_mean_ndcg_of_the_held_out_claims(random_data: Any) -> None:
    a, scores, values = lab_retrieval.choose_a(LinearMap(4), *random_data, SETTING)
    _, claims, _ = random_data
    assert values[lab_retrieval.A.index(a)] == max(values)
    assert lab_retrieval.ndcg(scores, claims).mean() == pytest.approx(max(values))


def test_test_judgements_change_no_choice_and_no_weight(folder: Path, run: Run) -> None:
    saved = []
    for documents in ("d14", "d2"):
        path = folder / "qrels" / "test.tsv"
        path.write_text(f"query-id\tcorpus-id\tscore\nc14\t{documents}\t1\n", encoding="utf-8")
        code, _, err = run("lab_retrieval", "--data", folder)
        assert code == 0, err
        saved.append(common.load_tensors(common.RESULTS / f"lab_retrieval_{folder.name}.pt"))
    assert torch.equal(saved[0]["map"], saved[1]["map"])
    for name in ("a", "weight", "bm25"):
        assert saved[0][name] == saved[1][name]


def test_new_claims_are_those_about_documents_that_no_training_claim_cites(
    folder: Path, run: Run
) -> None:
    code, out, _ = run("lab_retrieval", "--data", folder)
    assert code == 0
    assert out.startswith(
        "20 documents; 14 claims to train on, 8 to test on, 6 of them about new documents\n"
    )
    rows = ["BM25, k1", "[CLS] cosine", "mean cosine", "BM25 + mean cosine", "map, a", "BM25 + map"]
    assert all(f"\n{row}" in out for row in rows)


# --- Queries --------------------------------------------------------------------------------------


def test_query_prints_the_best_documents_after_a_run_and_no_control_characters(
    folder: Path, run: Run
) -> None:
    rows = (folder / "corpus.jsonl").read_text(encoding="utf-8").replace('"T3"', '"T\\u001b]0;x"')
    (folder / "corpus.jsonl").write_text(rows, encoding="utf-8")
    query = "--query", "The gene and the human are studied.", "--data", folder
    code, out, err = run("lab_retrieval", *query)
    assert (code, out) == (1, "")
    assert err.endswith("run the script once without --query\n")
    assert run("lab_retrieval", "--data", folder)[0] == 0
    code, out, _ = run("lab_retrieval", *query)
    assert code == 0
    assert len(out.splitlines()) == 2 * lab_retrieval.SHOWN
    assert out.splitlines()[0].endswith("  T1")
    assert "\x1b" not in out


def test_a_run_for_other_documents_is_not_used_for_a_query(folder: Path, run: Run) -> None:
    assert run("lab_retrieval", "--data", folder)[0] == 0
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "corpus.jsonl").write_text("\n".join(lines[:-1]), encoding="utf-8")
    code, out, err = run("lab_retrieval", "--data", folder, "--query", "gene")
    assert (code, out) == (1, "")
    assert "saved for other documents" in err
