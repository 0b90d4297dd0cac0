"""lab_retrieval.py: measures, training, and settings that are chosen on training claims alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from unittest.mock import Mock

import common
import lab_common
import lab_data
import lab_retrieval
import task07
from lab_data import Collection, Qrels
from lab_retrieval import POOLINGS, mean_ndcg, print_table

import numpy as np
import pytest
import torch
from conftest import ModelAndTokenizer, load_pair, only_line
from torch.nn import functional as F
from transformers import AutoModel

Capture, Patch = pytest.CaptureFixture, pytest.MonkeyPatch
WORDS = re.findall(r"[a-z]+", task07.CONTEXT.lower())  # that the tiny encoder knows
ENCODER = task07.EXTRACTIVE_MODEL
SOME = '{"_id": "c1", "text": "a"}'
HEADER = "query-id\tcorpus-id\tscore\n"


def write_qrels(folder: Path, split: str, relevant: dict[int, int]) -> None:
    lines = [f"c{claim}\td{document}\t1\n" for claim, document in relevant.items()]
    (folder / "qrels" / f"{split}.tsv").write_text(HEADER + "".join(lines))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write 50 documents of random words, and a claim about each but the first ten."""
    generator, folder = np.random.default_rng(0), tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    texts = [" ".join(generator.choice(WORDS, 12)) + ". End here." for _ in range(50)]
    claims = [" ".join([*text.split()[3:7], *generator.choice(WORDS, 3)]) for text in texts[10:]]
    corpus = [{"_id": f"d{i}", "title": f"Number {i}", "text": x} for i, x in enumerate(texts)]
    queries = [{"_id": f"c{i}", "text": claim} for i, claim in enumerate(claims)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_qrels(folder, "train", {i: i + 10 for i in range(0, 40, 2)})
    write_qrels(folder, "test", {i: i + 10 for i in range(1, 40, 2)})
    return folder


def mean_features(pair: ModelAndTokenizer, texts: list[str]) -> np.ndarray:
    ids = lab_common.tokenize(pair[1], texts)
    return lab_common.compute_features(pair[0], ids, POOLINGS)["mean"]


def document_features(pair: ModelAndTokenizer, collection: Collection) -> np.ndarray:
    return mean_features(pair, collection.documents())


def cosines(
    pair: ModelAndTokenizer, collection: Collection, features: np.ndarray | None = None
) -> np.ndarray:
    """Return the cosine similarities of claims and documents, (claims, documents)."""
    documents = document_features(pair, collection) if features is None else features
    return lab_retrieval.cosine_similarities(mean_features(pair, collection.claims), documents)


def test_weight_and_sentences_by_hand() -> None:
    for relevant, weight in ((0, 0.8), (1, 0.25)):  # the middle of the best weights
        qrels = Qrels([0], np.arange(3)[None] == relevant)
        both = np.array([[3.0, 1, 2]]), np.array([[0.1, 0.3, 0.2]])
        assert lab_retrieval.choose_weight(*both, qrels) == weight
    sentences = ["Cells grow.", "In vitro (n = 3.5) they do, cf. table 2.", "12 did not!", "Why?"]
    assert common.split_sentences(" ".join(sentences)) == sentences


def test_all_but_the_relevant_documents_are_negatives(
    checkpoints: Path, monkeypatch: Patch
) -> None:
    train, pair = Mock(), load_pair(checkpoints / ENCODER, AutoModel)
    monkeypatch.setattr(lab_common, "train", train)
    texts = [" ".join(WORDS[i : i + 5]) for i in range(0, 30, 5)]
    qrels = {"train": Qrels([0, 1], np.array([[1, 1, 0, 0], [0, 0, 1, 0]]))}
    collection = Collection([""] * 4, texts[:4], texts[4:], qrels)
    features = document_features(pair, collection)
    lab_retrieval.train_encoder(*pair, collection.claims, qrels["train"], features, 1)
    logits = torch.from_numpy(cosines(pair, collection) / lab_retrieval.TEMPERATURE)
    expected = {0: (0, [0, 2, 3]), 1: (0, [1, 2, 3]), 2: (1, [2, 0, 1, 3])}  # claim and documents
    for batch in ([0], [2], [0, 1], [1, 2]):  # of pairs of claim and document
        losses = [
            F.cross_entropy(logits[claim, ids], torch.tensor(0)).item()
            for claim, ids in map(expected.get, batch)
        ]
        loss = train.call_args.args[1](batch).item()
        assert loss == pytest.approx(np.mean(losses), abs=1e-4)


def test_training_brings_claims_closer_to_their_documents(
    checkpoints: Path, data: Path, monkeypatch: Patch
) -> None:
    pair = load_pair(checkpoints / ENCODER, AutoModel)
    monkeypatch.setattr(lab_retrieval, "RATE", 1e-3)
    collection = lab_data.load_collection("", data)
    train, features = collection.qrels["train"], document_features(pair, collection)
    before = cosines(pair, collection)
    common.seed_everything(0)
    lab_retrieval.train_encoder(*pair, collection.claims, train, features, 10)
    first, last = (x[train.claims] for x in (before, cosines(pair, collection, features)))
    assert mean_ndcg(first, train.relevance) + 0.2 < mean_ndcg(last, train.relevance)


def test_documents_with_equal_scores_keep_their_order_in_every_metric() -> None:
    scores: np.ndarray = np.zeros((1, 30))
    for first, expected in ((True, 1.0), (False, 0.0)):
        relevance = np.eye(30)[[0 if first else 29]]  # of the first or of the last document
        assert lab_retrieval.mean_ndcg(scores, relevance) == expected
        assert lab_retrieval.mean_recall(scores, relevance, 10) == expected
        assert lab_retrieval.mean_reciprocal_rank(scores, relevance) == expected


def test_claims_about_new_documents_share_none_with_the_training_claims() -> None:
    train = Qrels([5], np.array([[0, 1, 0, 0]]))
    test = Qrels([7, 8, 9], np.array([[1, 1, 0, 0], [0, 0, 0, 2], [0, 1, 0, 0]]))
    new = lab_retrieval.with_new_documents({"train": train, "test": test})
    assert (new.claims, new.relevance.tolist()) == ([8], [[0, 0, 0, 2]])


def test_a_run_prints_rankings_with_settings_chosen_on_training_claims(
    checkpoints: Path, data: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    path, recorder = common.RESULTS / "lab_retrieval_quick.pt", Mock(wraps=print_table)
    monkeypatch.setattr(lab_retrieval, "print_table", recorder)
    monkeypatch.setattr(lab_retrieval, "QUICK_DOCUMENTS", 2)
    choose = Mock(wraps=lab_retrieval.choose_weight)
    monkeypatch.setattr(lab_retrieval, "choose_weight", choose)
    options = ["--quick", "--data", str(data), "--model", str(checkpoints / ENCODER)]
    outputs, loaded, weights = [], [], []
    for run in ("first", "second", "damaged", "other test set", "other seed"):
        if run == "damaged":
            path.write_bytes(b"nonsense")
        if run == "other test set":
            path.unlink()
            write_qrels(data, "test", {i: (i + 6) % 40 + 10 for i in range(1, 40, 2)})
        assert lab_retrieval.main([*options, *["--seed=1"] * (run == "other seed")]) == 0
        out, err = capsys.readouterr()
        outputs.append(out)
        loaded.append("using the encoder trained before" in err)
        weights.append(common.load_tensors(path)["weights"])
    assert loaded == [False, True, False, False, False]
    assert outputs[0] == outputs[1] == outputs[2]
    rows, _, _, other_rows, _ = (call.args[0] for call in recorder.call_args_list)
    assert list(rows) == list(other_rows)  # with k1, b and the weight of BM25
    assert all(np.array_equal(scores, other_rows[name]) for name, scores in rows.items())
    assert all(torch.equal(weight, weights[3][name]) for name, weight in weights[0].items())
    assert not all(torch.equal(weight, weights[4][name]) for name, weight in weights[0].items())
    assert len({scores.tobytes() for scores in rows.values()}) == len(rows) == 7
    assert np.array_equal(choose.call_args_list[0].args[1], rows["mean cosine"])  # not the trained
    assert outputs[0].startswith(
        "42 documents; 20 claims to train on, with 20 relevant documents; "
    )
    printed = re.findall(r"^(.{36})((?: +[01]\.\d{4}){5})$", outputs[0], re.MULTILINE)
    assert [row[0].strip() for row in printed] == list(rows)
    assert float(printed[0][1].split()[0]) > 0.5  # of BM25
    query = json.loads((data / "corpus.jsonl").read_text().splitlines()[30])["text"].split(".")[0]
    assert lab_retrieval.main([*options, "--query", f"{query}."]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.endswith("  Number 30"))
    assert (len(lines), lines[place + 1]) == (2 * lab_retrieval.SHOWN, f"   1.000  {query}.")


def test_documents_without_words_score_zero() -> None:
    documents = lab_retrieval.split_words(["a b", "\N{CAT}", "the"])
    assert not lab_retrieval.bm25(documents, ["a cat"], 1.2, 0.75).any()


def test_a_collection_is_read_as_its_own_loader_reads_it(data: Path, capsys: Capture) -> None:
    expected = lab_data.load_collection("", data)
    rows = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    for row in rows:
        del row["title"]
    (data / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    path = data / "qrels" / "test.tsv"
    lines = path.read_text().replace("\t1\n", "\t1.0\n")
    path.write_text(f"{lines}c1\td99\t1\nc99\td1\t1\nc1\td0\t-1\n\n")
    found = lab_data.load_collection("", data)
    assert found.documents() == expected.abstracts
    assert np.array_equal(found.qrels["test"].relevance, expected.qrels["test"].relevance)
    only_line(capsys.readouterr().err, "2 judgements of unknown claims or documents are skipped")


def test_one_document_cannot_be_ranked(data: Path) -> None:
    (data / "corpus.jsonl").write_text('{"_id": "d10", "text": "a"}')
    with pytest.raises(common.ScriptError, match="there is only one document; a ranking needs two"):
        lab_retrieval.main(["--data", str(data)])


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("qrels/test.tsv", f"{HEADER}c1\td99\t1\n", "no document is relevant to any claim"),
    ("qrels/test.tsv", f"{HEADER}c1\td1\t1\nc1\td1\t2\n", "row 3: claim 'c1' and document 'd1'"),
    ("corpus.jsonl", f"{SOME}\n\n{SOME}", "line 3: the id 'c1' is also in line 1"),
    ("queries.jsonl", f"{SOME}\n{SOME}", "line 2: the id 'c1' is also in line 1"),
    ("corpus.jsonl", "[" * 100_000, "line 1 is not JSON .maximum recursion depth exceeded"),
    ("corpus.jsonl", '{"_id": "d1", "text": "\\ud800"}', "line 1 is not JSON .'utf-8' codec can't"),
    ("qrels/train.tsv", f"{HEADER}c1\td1\t0.5\n", "row 2: score '0.5' is not an integer"),
    ("qrels/train.tsv", f"{HEADER}c1\td1\t0\n", "no document is relevant to any claim"),
])  # fmt: skip
def test_error_in_a_collection_is_named(data: Path, name: str, content: str, problem: str) -> None:
    (data / name).write_text(content)
    with pytest.raises(common.ScriptError, match=f"{data / name}: {problem}"):
        lab_retrieval.main(["--data", str(data)])


def test_k1_and_b_with_the_best_ndcg_of_their_claims_are_chosen(monkeypatch: Patch) -> None:
    def bm25(documents: object, claims: list[str], k1: float, b: float) -> np.ndarray:
        assert claims == ["second"]
        return np.array([[0.0, 1.0 if (k1, b) == (1.5, 0.4) else -1.0]])

    monkeypatch.setattr(lab_retrieval, "bm25", bm25)
    qrels = Qrels([1], np.array([[0, 1]]))
    assert lab_retrieval.choose_bm25(None, ["first", "second"], qrels) == (1.5, 0.4)


def test_encoder_is_trained_again_after_any_change(
    checkpoints: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    train, pair = Mock(), load_pair(checkpoints / ENCODER, AutoModel)
    monkeypatch.setattr(lab_retrieval, "train_encoder", train)
    features = np.eye(3, 32, dtype=np.float32)

    def count(
        claims: int = 0, relevant: int = 0, sign: int = 1, seed: int = 0, epochs: int = 1
    ) -> int:
        """Return how often an encoder has been trained so far."""
        qrels = {"train": Qrels([1], np.eye(3)[[relevant]])}
        collection = Collection([""] * 3, [""] * 3, WORDS[claims : claims + 2], qrels)
        path = tmp_path / "encoder.pt"
        lab_retrieval.load_or_train_encoder(*pair, collection, sign * features, seed, epochs, path)
        return train.call_count

    assert count() == count() == 1
    for change in ({"claims": 2}, {"relevant": 2}, {"sign": -1}, {"seed": 1}, {"epochs": 2}):
        assert count() + 1 == count(**change), change
