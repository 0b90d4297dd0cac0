"""Lab exercise 3.3: retrieve the abstracts that support or refute a scientific claim (SciFact).

- BM25 scores a document by the words it shares with the claim. Rare words count more, and words in
  long documents count less.
- Dense retrieval scores a document by the cosine similarity of its features and the claim's. The
  features are [CLS] or the mean over the tokens. So documents in other words are found too.
- A fine-tuned encoder is trained to put each training claim closer to its own abstracts than to all
  others. Only the vectors of the claims change. Those of the abstracts are computed once.
- Fusion is a weighted sum of the standardised scores of BM25 and of an encoder.

Every setting is chosen on training claims: k1, b and the weight by the script, those of the
fine-tuning on a held-out tenth, with tests/bench.py. Two of three test claims are about an abstract
that is also relevant to a training claim. The last column of the table is for the others.

    python lab_retrieval.py
    python lab_retrieval.py --query "Vitamin D protects against colds."     the five best documents
    python lab_retrieval.py --dataset docstrings     summaries of functions, and their descriptions
    python lab_retrieval.py --data DIR           any collection in BEIR's form: corpus.jsonl,
                                                 queries.jsonl, qrels/train.tsv, qrels/test.tsv

The first run takes about six minutes; features and the trained encoder are saved in results/. The
next runs, and those with --query, take half a minute. Expect an nDCG@10 of 0.83, or 0.74 for claims
about abstracts that are not in the training data.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from itertools import product
from pathlib import Path

import common
import lab_common
import lab_data
import pretrained
from lab_common import Poolings
from lab_data import Collection, Qrels

import bm25s
import numpy as np
import Stemmer
import torch
from bm25s.tokenization import Tokenized
from scipy.stats import rankdata
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

MODEL = "bundled"  # a sentence encoder, whose mean-pooled features can be compared by cosine
QUICK_DOCUMENTS = 150  # of a quick run, besides the relevant ones
QUICK_CLAIMS = 40  # of each split in a quick run
K1 = (0.9, 1.2, 1.5, 2.0)  # of BM25; with a smaller k1 repeated words count less
B = (0.4, 0.75, 0.9)  # of BM25; with a larger b long documents count less
RANK_CONSTANT = 60  # of reciprocal rank fusion, the value of its authors
WEIGHTS = [round(0.05 * step, 2) for step in range(21)]  # of BM25 in a weighted sum
EPOCHS, BATCH, RATE = 6, 32, 2e-4  # epochs and rate: the best on held-out training claims
TEMPERATURE = 0.03  # divides the cosines, which without it differ too little for a softmax
SHOWN = 5  # documents printed for --query

POOLINGS: Poolings = {"[CLS]": lab_common.cls_pooling, "mean": lab_common.mean_pooling}


def first_claims(collection: Collection) -> Collection:
    """Return a few claims of each split with their documents, and some other documents."""
    qrels = {
        name: Qrels(each.claims[:QUICK_CLAIMS], each.relevance[:QUICK_CLAIMS])
        for name, each in collection.qrels.items()
    }
    is_relevant = sum(each.relevance.sum(0) for each in qrels.values()) > 0  # (documents,)
    kept = np.flatnonzero(is_relevant | (np.arange(len(is_relevant)) < QUICK_DOCUMENTS))
    return Collection(
        [collection.titles[index] for index in kept],
        [collection.abstracts[index] for index in kept],
        collection.claims,
        {name: Qrels(each.claims, each.relevance[:, kept]) for name, each in qrels.items()},
    )


def rank_documents(scores: np.ndarray, depth: int) -> np.ndarray:
    """Return the documents with the highest scores, best first: (…, documents) to (…, depth).

    Documents with equal scores keep their order.
    """
    return np.argsort(-scores, axis=-1, kind="stable")[..., :depth]


def ranked_relevance(scores: np.ndarray, relevance: np.ndarray, depth: int) -> np.ndarray:
    """Return the relevance of the documents with the highest scores: (claims, depth)."""
    return np.take_along_axis(relevance, rank_documents(scores, depth), 1)


def mean_ndcg(scores: np.ndarray, relevance: np.ndarray) -> float:
    """Return the mean nDCG@10 of scores (Järvelin and Kekäläinen 2002).

    Scores and relevance are (claims, documents).
    """
    gains = ranked_relevance(scores, relevance, 10)  # (claims, 10)
    ideal = np.sort(relevance, axis=1)[:, ::-1][:, :10]  # the most relevant documents first
    discounts = 1 / np.log2(2 + np.arange(gains.shape[1]))  # (10,)
    return float(np.mean((gains @ discounts) / (ideal @ discounts)))


def mean_recall(scores: np.ndarray, relevance: np.ndarray, depth: int) -> float:
    """Return the mean fraction of the relevant documents that are among the first `depth`."""
    found = ranked_relevance(scores, relevance, depth) > 0  # (claims, depth)
    return float(np.mean(found.sum(1) / (relevance > 0).sum(1)))


def mean_reciprocal_rank(scores: np.ndarray, relevance: np.ndarray) -> float:
    """Return the mean of 1 / rank of the first relevant document, 0 if it is not in the top 10."""
    found = ranked_relevance(scores, relevance, 10) > 0  # (claims, 10)
    return float(np.mean(found.any(1) / (found.argmax(1) + 1)))


def split_words(texts: list[str], **options: bool) -> Tokenized | list[list[str]]:
    """Split texts into word stems without stop words, for bm25s.

    With `return_ids=False` it returns a list of strings for each text.
    """
    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False, **options)


def bm25(documents: Tokenized, claims: list[str], k1: float, b: float) -> np.ndarray:
    """Return the BM25 scores, (claims, documents) (Robertson and Zaragoza 2009).

    `documents` comes from `split_words`. A claim of stop words alone scores 0 everywhere, and so
    does a document of stop words or single letters.
    """
    if not documents.vocab:
        return np.zeros((len(claims), len(documents.ids)), dtype=np.float32)
    index = bm25s.BM25(k1=k1, b=b)
    index.index(documents, show_progress=False)
    zeros = np.zeros(index.scores["num_docs"], dtype=np.float32)
    words = split_words(claims, return_ids=False)
    return np.stack([index.get_scores(each) if each else zeros for each in words])


def choose_bm25(documents: Tokenized, claims: list[str], qrels: Qrels) -> tuple[float, float]:
    """Return the k1 and b with the best nDCG@10 on the claims of `qrels`."""
    texts = [claims[claim] for claim in qrels.claims]
    return max(
        product(K1, B),
        key=lambda pair: mean_ndcg(bm25(documents, texts, *pair), qrels.relevance),
    )


def cosine_similarities(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of `left` and each row of `right`: (left, right)."""
    left, right = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (left, right))
    return left @ right.T


def standardise(scores: np.ndarray) -> np.ndarray:
    """Scale the scores of each claim to mean 0 and standard deviation 1 over the documents."""
    deviation = scores.std(1, keepdims=True)
    deviation[deviation == 0] = 1.0  # no word of the claim occurs in any document
    return (scores - scores.mean(1, keepdims=True)) / deviation


def reciprocal_rank_fusion(*all_scores: np.ndarray) -> np.ndarray:
    """Return the sum of 1 / (60 + rank) over these scores (Cormack, Clarke and Büttcher 2009).

    Documents with equal scores share the mean of their ranks.
    """
    ranks = [rankdata(-scores, axis=1) for scores in all_scores]  # (claims, documents) each, from 1
    return np.sum([1 / (RANK_CONSTANT + each) for each in ranks], axis=0)


def weighted_sum(bm25_scores: np.ndarray, dense_scores: np.ndarray, weight: float) -> np.ndarray:
    """Return the weighted sum of standardised scores; `weight` is that of BM25."""
    return weight * standardise(bm25_scores) + (1 - weight) * standardise(dense_scores)


def choose_weight(bm25_scores: np.ndarray, dense_scores: np.ndarray, qrels: Qrels) -> float:
    """Return the weight of BM25 with the best nDCG@10 on the claims of `qrels`.

    Among equally good weights it is the middle one.
    """
    left, right = (standardise(scores[qrels.claims]) for scores in (bm25_scores, dense_scores))
    values = [mean_ndcg(w * left + (1 - w) * right, qrels.relevance) for w in WEIGHTS]
    best = [weight for weight, value in zip(WEIGHTS, values, strict=True) if value == max(values)]
    return best[len(best) // 2]


def train_encoder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    claims: list[str],
    qrels: Qrels,
    document_features: np.ndarray,
    epochs: int,
) -> None:
    """Train the encoder to put each claim of `qrels` closest to its own documents.

    The features of the documents (documents, width) stay the same, so all documents that are not
    relevant to a claim are its negatives. The loss is the cross-entropy of the cosines (van den
    Oord et al. 2018). The model is in eval mode, because dropout made the rankings worse.
    """
    pairs = np.argwhere(qrels.relevance > 0)  # (pairs, 2): a row of `relevance` and a document
    ids = lab_common.tokenize(tokenizer, [claims[claim] for claim in qrels.claims])
    relevant = torch.from_numpy(qrels.relevance > 0).to(model.device)  # (claims, documents)
    documents = torch.from_numpy(document_features).to(model.device)
    documents = nn.functional.normalize(documents)  # (documents, width)

    def encode(rows: list[int]) -> torch.Tensor:
        inputs = lab_common.pad_batch([ids[row] for row in rows], model.device)
        states = (model(**inputs).last_hidden_state,)  # (claims, time, width)
        return lab_common.mean_pooling(states, inputs["attention_mask"])  # (claims, width)

    def batch_loss(batch: list[int]) -> torch.Tensor:
        batch = sorted(batch, key=lambda pair: len(ids[pairs[pair, 0]]))
        rows, positives = pairs[batch].T.tolist()
        halves = rows[: BATCH // 2], rows[BATCH // 2 :]  # the short claims need little padding
        means = torch.cat([encode(half) for half in halves if half])  # (claims, width)
        cosines = nn.functional.normalize(means) @ documents.T  # (claims, documents)
        ignored = relevant[rows]  # (claims, documents), a copy
        ignored[range(len(rows)), positives] = False  # other relevant documents: no negatives
        logits = (cosines / TEMPERATURE).masked_fill(ignored, -torch.inf)
        return nn.functional.cross_entropy(logits, torch.tensor(positives, device=model.device))

    batches = lab_common.random_batches(len(pairs), BATCH, epochs)
    lab_common.train(model.eval(), batch_loss, batches, RATE)


def load_or_train_encoder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    collection: Collection,
    document_features: np.ndarray,
    seed: int,
    epochs: int,
    path: Path,
) -> None:
    """Train the encoder and save it, or load the result of the same training from `path`."""
    claims, qrels = collection.claims, collection.qrels["train"]
    inputs = (
        hashlib.sha256(document_features.tobytes()).hexdigest(),
        lab_common.tokenize(tokenizer, [claims[claim] for claim in qrels.claims]),
        np.argwhere(qrels.relevance > 0).tolist(),
    )
    content = lab_common.content_hash(model, inputs, (BATCH, RATE, TEMPERATURE, seed, epochs))
    with contextlib.suppress(FileNotFoundError, ValueError, LookupError):  # missing or damaged
        saved = common.load_tensors(path, model.device)
        if saved["content"] == content:
            model.load_state_dict(saved["weights"])
            common.note(f"using the encoder trained before ({path})")
            return
    common.seed_everything(seed)
    train_encoder(model, tokenizer, claims, qrels, document_features, epochs)
    common.save_tensors(path, {"content": content, "weights": model.state_dict()})


def with_new_documents(qrels: dict[str, Qrels]) -> Qrels:
    """Return the test claims whose documents are not relevant to any training claim."""
    known = (qrels["train"].relevance > 0).any(0)  # (documents,)
    is_known = ((qrels["test"].relevance > 0) & known).any(1)  # (test claims,)
    return qrels["test"].part(np.flatnonzero(~is_known))


def print_table(rows: dict[str, np.ndarray], test: Qrels, new: Qrels) -> None:
    """Print the mean measures over the claims of each row of scores, (claims, documents).

    The last column is over the claims `new`, which are a part of `test`.
    """
    print(f"\n{'':36}{'nDCG@10':>8}{'Recall@10':>11}{'Recall@100':>12}{'MRR@10':>8}{'new':>8}")
    for name, scores in rows.items():
        ranked, relevance = scores[test.claims], test.relevance
        recall_10, recall_100 = (mean_recall(ranked, relevance, depth) for depth in (10, 100))
        print(f"{name:36}{mean_ndcg(ranked, relevance):8.4f}{recall_10:11.4f}", end="")
        print(f"{recall_100:12.4f}{mean_reciprocal_rank(ranked, relevance):8.4f}", end="")
        print(f"{mean_ndcg(scores[new.claims], new.relevance):8.4f}" if new.claims else f"{'-':>8}")


def print_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    query: str,
    scores: np.ndarray,
    collection: Collection,
) -> None:
    """Print the documents with the highest scores, (documents,), and the best sentence of each."""
    for document in rank_documents(scores, SHOWN):
        sentences = common.split_sentences(collection.abstracts[document])
        ids = lab_common.tokenize(tokenizer, [query, *sentences])
        features = lab_common.compute_features(model, ids, POOLINGS)["mean"]
        similarity = cosine_similarities(features[:1], features[1:])[0]  # (sentences,)
        print(f"{scores[document]:6.3f}  {collection.titles[document]}")
        print(f"{similarity.max():8.3f}  {sentences[similarity.argmax()]}")


def main(argv: list[str] | None = None) -> int:
    """Rank the documents in every way; with --query, show the best documents for one query."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", "--data", model=MODEL)
    text = "scifact, or docstrings of installed libraries (default: scifact)"
    parser.add_argument("--dataset", choices=("scifact", "docstrings"), help=text)
    parser.add_argument("--query", metavar="TEXT", help="show the best documents for this query")
    arguments = parser.parse_args(argv)
    if arguments.query is not None and not arguments.query.strip():
        raise common.ScriptError("--query is empty; give a sentence to search for")
    _, collection = lab_data.load_or_docstrings(arguments, "scifact", lab_data.load_collection)
    if arguments.quick:
        collection = first_claims(collection)
    train, test = collection.qrels["train"], collection.qrels["test"]
    documents, claims = collection.documents(), collection.claims
    folder = pretrained.find_model(arguments.model, pretrained.ENCODER)
    tokenizer = pretrained.load(AutoTokenizer, folder)
    model = pretrained.load(AutoModel, folder).to(common.select_device(arguments.device))

    def encode(encoder: PreTrainedModel, texts: list[str]) -> dict[str, np.ndarray]:
        """Return the features of texts by [CLS] and by the mean: (texts, width) each."""
        return lab_common.encode(encoder, tokenizer, texts, POOLINGS)

    document_words = split_words(documents)
    k1, b = choose_bm25(document_words, claims, train)
    bm25_scores = bm25(document_words, claims, k1, b)
    document_features, claim_features = encode(model, documents), encode(model, claims)
    cls_scores, mean_scores = (
        cosine_similarities(claim_features[name], document_features[name]) for name in POOLINGS
    )
    # the weight is chosen before training: the trained encoder has seen the training claims
    weight = choose_weight(bm25_scores, mean_scores, train)
    epochs, suffix = (1, "_quick") if arguments.quick else (EPOCHS, "")
    path = common.RESULTS / f"lab_retrieval{suffix}.pt"
    document_vectors = document_features["mean"]  # (documents, width)
    tuned = copy.deepcopy(model)  # for claims and queries; documents and sentences keep `model`
    load_or_train_encoder(
        tuned, tokenizer, collection, document_vectors, arguments.seed, epochs, path
    )

    if arguments.query is not None:
        query = [arguments.query]
        trained_scores = cosine_similarities(encode(tuned, query)["mean"], document_vectors)
        scores = weighted_sum(bm25(document_words, query, k1, b), trained_scores, weight)[0]
        print_answer(model, tokenizer, arguments.query, scores, collection)
        return 0
    trained_scores = cosine_similarities(encode(tuned, claims)["mean"], document_vectors)
    new = with_new_documents(collection.qrels)
    print(
        f"{len(documents):,} documents; {len(train.claims)} claims to train on, with "
        f"{(train.relevance > 0).sum()} relevant documents; {len(test.claims)} claims to test on, "
        f"{len(new.claims)} of them about new documents"
    )
    weights = f"{weight:g} : {1 - weight:g}"
    rows = {
        f"BM25, k1 {k1:g}, b {b:g}": bm25_scores,
        "[CLS] cosine": cls_scores,
        "mean cosine": mean_scores,
        f"BM25 + mean cosine, {weights}": weighted_sum(bm25_scores, mean_scores, weight),
        "trained, mean cosine": trained_scores,
        "BM25 + trained, reciprocal ranks": reciprocal_rank_fusion(bm25_scores, trained_scores),
        f"BM25 + trained, {weights}": weighted_sum(bm25_scores, trained_scores, weight),
    }
    print_table(rows, test, new)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
