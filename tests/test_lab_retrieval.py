"""Lab exercise 3.3: measures, fusion, the map, and the claims that may choose its settings."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoModel

import bundled
import common
import lab_common
import lab_retrieval
from conftest import EXPECTED, Run, load_pair, only_line
from lab_data import Claim, Collection
from lab_retrieval import Setting, Split, identity_map

DECODER = "openai-community/gpt2"
SETTING = Setting(2, 1e-2, 0.1)
DOCUMENTS = [row % 8 for row in range(12)]  # of the claims of `split`


@pytest.fixture
def split() -> Split:
    """Return 12 claims with random features; each is about one of 8 documents."""
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    claims = [Claim(f"claim {row}", {document: 1}) for row, document in enumerate(DOCUMENTS)]
    return Split(claims, features)


@pytest.fixture
def documents() -> torch.Tensor:
    """Return the vectors of 8 documents."""
    return normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(1)))


TEXTS = (EXPECTED / "texts.txt").read_text(encoding="utf-8")
WORDS = sorted({*re.findall(r"[a-z]{7,}", TEXTS)})[:40]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a collection in BEIR's form: 40 documents of random words, and 60 claims about them.

    There are 30 claims to train on, about documents 0 to 29. Claim 41 is about document 1.
    """
    generator = np.random.default_rng(0)
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    texts = [" ".join(generator.choice(WORDS, 8)) + ". A second sentence." for _ in range(40)]
    claims = [" ".join(texts[row % 40].split()[row // 40 :][:4]) for row in range(60)]
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
    for _ in range(30):
        scores = generator.integers(0, 9, 150).astype(float)  # with ties
        grades = {int(d): int(generator.integers(1, 3)) for d in generator.choice(150, 3, False)}
        order = sorted(range(150), key=lambda d: (-scores[d], d))
        gain = sum(grades.get(d, 0) / math.log2(r + 2) for r, d in enumerate(order[:10]))
        best = sum(g / math.log2(r + 2) for r, g in enumerate(sorted(grades.values())[::-1]))
        found = [rank for rank, document in enumerate(order, start=1) if document in grades]
        measures = lab_retrieval.measure(scores[np.newaxis], [Claim("", grades)]).iloc[0]
        assert measures.drop("new").to_dict() == pytest.approx({
            "nDCG@10": gain / best,
            "Recall@10": sum(rank <= 10 for rank in found) / 3,
            "Recall@100": sum(rank <= 100 for rank in found) / 3,
            "MRR@10": 1 / found[0] if found[0] <= 10 else 0,
        })  # fmt: skip


def test_fusion_is_the_weighted_sum_of_standardised_scores() -> None:
    first, second = np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 0.0, 9.0]])
    expected = 0.25 * (first - 2) / first.std() + 0.75 * (second - 3) / second.std()
    assert lab_retrieval.fuse(first, second, 0.25) == pytest.approx(expected)
    unknown = np.zeros((1, 3))  # no document has a word of the claim
    assert lab_retrieval.fuse(unknown, unknown, 0.5).tolist() == [[0, 0, 0]]


# --- The map --------------------------------------------------------------------------------------


def test_loss_is_the_mean_over_the_relevant_documents_among_all_documents(
    split: Split, documents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(_: Any, batch_loss: Any, *rest: Any, **options: Any) -> None:
        losses.append(batch_loss([3]).item())

    losses: list[float] = []
    monkeypatch.setattr(lab_common, "train", record)
    split.claims[3] = Claim("", {1: 1, 5: 2})
    lab_retrieval.train_claims(identity_map(4), split, documents, SETTING, seed=0)
    cosines = normalize(split.inputs[3], dim=0) @ documents.T
    log_probabilities = (cosines / SETTING.temperature).log_softmax(0)
    assert losses == [pytest.approx(-log_probabilities[[1, 5]].mean().item())]


def test_interpolation_mixes_the_weights() -> None:
    start, trained = identity_map(2), identity_map(2)
    trained.weight.data = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
    mixed = lab_retrieval.interpolate(start, trained, 0.25)
    assert mixed.weight.tolist() == [[1.5, 0.25], [0.0, 1.0]]
    assert torch.equal(start.weight, torch.eye(2))


def test_claims_are_encoded_as_by_the_frozen_encoder() -> None:
    encoder, tokenizer = load_pair(bundled.encoder(), AutoModel)
    texts, pooling = ["a long claim about genes", "a"], lab_retrieval.POOLINGS["mean"]
    found = lab_retrieval.ClaimEncoder(encoder, tokenizer, pooling)(np.array(texts))
    expected = lab_retrieval.encode(encoder, tokenizer, texts, {"mean": pooling})["mean"]
    assert torch.allclose(found, expected, atol=1e-5)


# --- What may choose a setting --------------------------------------------------------------------


def test_folds_share_no_document() -> None:
    generator = np.random.default_rng(0)
    pairs = [generator.choice(40, 2, replace=False).tolist() for _ in range(25)]
    claims = [Claim("", dict.fromkeys(pair, 1)) for pair in [*pairs, *([i] for i in range(40, 60))]]
    folds = lab_retrieval.disjoint_folds(claims)
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == [*range(45)]
    for kept, held_out in folds:
        known, asked = ({d for i in rows for d in claims[i].relevant} for rows in (kept, held_out))
        assert not known & asked


def test_alpha_is_chosen_with_maps_that_have_not_seen_the_claims(
    split: Split, documents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a map rank the document of a claim first if it was not trained on the claim."""
    names = split.inputs[:, 0].tolist()

    def train(start: Any, part: Split, *_: Any) -> list[float]:
        return part.inputs[:, 0].tolist()

    def cosine_scores(known: list[float], inputs: torch.Tensor, _: Any) -> np.ndarray:
        rows = [names.index(name) for name in inputs[:, 0].tolist()]
        signs = [-1 if names[row] in known else 1 for row in rows]
        return np.array(signs)[:, None] * np.eye(8)[DOCUMENTS][rows]  # (claims, documents)

    monkeypatch.setattr(lab_retrieval, "train_claims", train)
    monkeypatch.setattr(lab_retrieval, "interpolate", lambda start, trained, a: trained)
    monkeypatch.setattr(lab_retrieval, "cosine_scores", cosine_scores)
    values = lab_retrieval.held_out_ndcg(identity_map(4), split, documents, SETTING, seed=0)
    assert values == [1.0] * len(lab_retrieval.ALPHAS)


def test_test_judgements_change_no_choice_and_no_weight(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lab_retrieval, "ALPHAS", [0.5, 1.0]
    )  # with 0 the weights would be untrained
    saved = []
    for step in (1, 7):
        write_judgements(folder, "test", {row: row * step % 40 for row in range(30, 60)})
        code, out, err = run("lab_retrieval", "--data", folder)
        assert code == 0, err
        content = common.load_tensors(common.RESULTS / "lab_retrieval.pt")
        names = re.findall(r"^((?:BM25|map).*?)\s{2,}", out, re.MULTILINE)  # with the settings
        saved.append((content.pop("map"), content.pop("documents"), content, names))
    assert torch.equal(saved[0][0], saved[1][0])
    assert saved[0][2:] == saved[1][2:]


def test_pooling_is_the_better_one_for_the_training_claims(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = torch.eye(384)  # as wide as the bundled encoder's features
    wrong, test = right.roll(1, 0), [row % 40 for row in range(30, 60)]
    features = iter([
        {"[CLS]": right[:30], "mean": right[:30]},  # of the claims to train on
        {"[CLS]": wrong[test], "mean": wrong[test]},
        {"[CLS]": right[:40], "mean": wrong[:40]},  # of the documents
    ])  # fmt: skip
    monkeypatch.setattr(lab_retrieval, "encode", lambda *_: next(features))
    _, out, _ = run("lab_retrieval", "--data", folder, "--device", "cpu")
    assert "\nBM25 + [CLS] cosine, weight " in out
    saved = common.load_tensors(common.RESULTS / "lab_retrieval.pt")
    assert (saved["pooling"], saved["documents"].tolist()) == ("[CLS]", right[:40].tolist())


def test_fused_rows_have_the_chosen_weight(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_retrieval, "choose_bm25_weight", lambda *_: 1.0)  # BM25 alone
    _, out, _ = run("lab_retrieval", "--data", folder)
    rows = [line.split()[-6:-1] for line in out.splitlines() if line.startswith("BM25")]
    assert rows == [rows[0]] * 3


def test_a_decoder_has_no_cls_row(folder: Path, run: Run, checkpoints: Path) -> None:
    code, out, _ = run("lab_retrieval", "--data", folder, "--model", checkpoints / DECODER)
    assert (code, "[CLS]" in out) == (0, False)


def test_a_test_claim_is_not_trained_on_and_may_be_about_a_new_document(
    folder: Path, run: Run
) -> None:
    rows = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    rows[30] = rows[0].replace('"c0"', '"c30"')  # another id, the same text
    (folder / "queries.jsonl").write_text("\n".join(rows), encoding="utf-8")
    write_judgements(folder, "test", {30: 0, 31: 5})  # claim 5 is about document 5, too
    _, out, _ = run("lab_retrieval", "--data", folder)
    only_line(out, "; 29 claims to train on, 2 to test on, 1 of them about new documents")


def test_interval_is_that_of_the_paired_differences(capsys: pytest.CaptureFixture) -> None:
    first = pd.DataFrame({"nDCG@10": [0.1, 0.5, 0.9], "new": [0.1, np.nan, np.nan]})
    lab_retrieval.print_difference({"x": [first, first + 0.2], "y": [first]}, "x", "y")
    err = capsys.readouterr().err  # each claim gains the same
    assert "all claims +0.100 (+0.100 to +0.100), new documents +0.100 (+0.100 to +0.100)" in err


# --- Queries --------------------------------------------------------------------------------------


def test_query_prints_the_best_documents_of_the_last_run_without_control_characters(
    folder: Path, run: Run
) -> None:
    path = folder / "corpus.jsonl"
    text = path.read_text(encoding="utf-8").replace('"T3"', '"T3\\u001b]0;x"')
    path.write_text(text, encoding="utf-8")
    sentence = json.loads(text.splitlines()[3])["text"].partition(".")[0]
    code, out, err = run("lab_retrieval", "--query", sentence)
    assert (code, out) == (1, "")
    only_line(err, "run the script once without --query")
    run("lab_retrieval", "--data", folder)
    path.unlink()
    code, out, err = run("lab_retrieval", "--query", sentence)
    only_line(err, f"searching 40 documents of {folder}")
    assert (code, len(out.splitlines())) == (0, 2 * lab_retrieval.SHOWN)
    assert out.splitlines()[0].endswith("  T3 ]0;x")
    assert out.splitlines()[1] == f"        {sentence}."
    assert run("lab_retrieval", "--query", "to be or not to be")[0] == 0  # stop words alone


def test_query_with_other_data_is_a_wrong_option(run: Run) -> None:
    code, out, err = run("lab_retrieval", "--query", "x", "--dataset", "docstrings")
    assert (code, out) == (2, "")
    only_line(err, "--query searches the last run; leave out ")


def test_result_has_the_alpha_of_the_held_out_claims(
    split: Split, documents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [float(alpha == 0.3) for alpha in lab_retrieval.ALPHAS]
    monkeypatch.setattr(lab_retrieval, "held_out_ndcg", lambda *_: values)
    result = lab_retrieval.train_and_test(identity_map(4), [split] * 2, documents, SETTING, 0)
    assert result.alpha == 0.3
    expected = lab_retrieval.cosine_scores(result.model, split.inputs, documents)
    assert np.array_equal(result.cosines[0], expected)
    assert len({cosines.tobytes() for cosines in result.cosines}) == 3  # of three seeds
    mean = lab_retrieval.mean_ndcg(np.concatenate(result.cosines), split.claims * 3)
    assert result.curve.loc[0.3, "test claims"] == pytest.approx(mean)


def test_of_too_many_claims_evenly_spaced_ones_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_retrieval, "MAX_CLAIMS", 10)
    arguments = lab_retrieval.parse_arguments(["--data", str(folder)])
    claims = lab_retrieval.load_collection(arguments)[1].claims
    assert [[*claim.relevant] for claim in claims["train"]] == [[row] for row in range(0, 30, 3)]


def test_thinned_collection_has_the_claims_about_its_documents_alone() -> None:
    claims = [Claim("a", {0: 1, 4: 2}), Claim("b", {0: 1, 1: 1}), Claim("c", {3: 1})]
    thin = lab_retrieval.thin_out(Collection([*"uvwxyz"], [*"UVWXYZ"], {"test": claims}), 3)
    assert (thin.titles, thin.abstracts) == ([*"uwy"], [*"UWY"])
    assert thin.claims == {"test": [Claim("a", {0: 1, 2: 2})]}


def test_ndcg_is_1_if_ten_of_twelve_relevant_documents_come_first() -> None:
    ranks, grades = np.arange(1, 13), np.array([2] * 10 + [1] * 2)
    assert lab_retrieval.ndcg(ranks, grades) == pytest.approx(1)


def test_training_is_without_dropout(split: Split, documents: torch.Tensor) -> None:
    starts = [torch.nn.Sequential(torch.nn.Dropout(p), identity_map(4)) for p in (0.0, 0.5)]
    first, second = (
        lab_retrieval.train_claims(start, split, documents, SETTING, seed=0)[1].weight
        for start in starts
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.eye(4))
    assert torch.equal(starts[0][1].weight, torch.eye(4))  # a copy was trained


def test_held_out_claims_are_ranked_with_each_alpha(
    split: Split, documents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a map rank the document of a claim first with the alpha 0.3, and last with others."""
    monkeypatch.setattr(lab_retrieval, "train_claims", lambda *_: None)
    monkeypatch.setattr(lab_retrieval, "interpolate", lambda start, trained, alpha: alpha)
    monkeypatch.setattr(
        lab_retrieval, "cosine_scores", lambda a, rows, _: (1 if a == 0.3 else -1) * np.eye(8)[rows]
    )
    split = split._replace(inputs=np.array(DOCUMENTS))
    values = lab_retrieval.held_out_ndcg(identity_map(4), split, documents, SETTING, 0)
    assert [value == 1.0 for value in values] == [alpha == 0.3 for alpha in lab_retrieval.ALPHAS]
