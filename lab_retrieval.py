"""Lab exercise 3.3: retrieve the abstracts that support or refute a scientific claim (SciFact).

- BM25 scores a document by the words it shares with the claim. Rare words count more, and words in
  long documents count less.
- Dense retrieval scores a document by the cosine of its features and the claim's: the last hidden
  state of [CLS], or the mean over the tokens. It also finds documents that use other words.
- A linear map of the claims' features is trained to bring each claim closer to its own abstracts
  than to all others. The encoder is frozen, so every text is encoded once.
- Fusion is a weighted sum of the standardised scores of BM25 and of dense retrieval.

Two of three test claims are about an abstract that a training claim cites, so a model that only
remembers these abstracts looks good. Therefore every setting is chosen on held-out training claims
that share no abstract with the claims trained on. The column `new` shows the test claims about
abstracts that no training claim cites. The second table and the picture show both columns between
the untrained map, the identity (a = 0), and the trained one (a = 1).

    python lab_retrieval.py
    python lab_retrieval.py --query "Vitamin D protects against colds."   after a run: the best five
    python lab_retrieval.py --finetune               also train the encoder of the claims
    python lab_retrieval.py --dataset docstrings     summaries of functions, and their descriptions
    python lab_retrieval.py --data DIR               a collection in BEIR's form: corpus.jsonl,
                                                     queries.jsonl, qrels/train.tsv, qrels/test.tsv

Takes four to seven minutes, most of them for encoding the abstracts; --finetune takes longer.
Expect an nDCG@10 of 0.77, and of 0.75 for claims about new abstracts.
"""

import copy
import os
import re
import zlib
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads yield the CPU

import bm25s
import numpy as np
import pandas as pd
import Stemmer
import torch
from bm25s.tokenization import Tokenized
from matplotlib.figure import Figure
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata
from sklearn.model_selection import GroupKFold
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

import bundled
import common
import lab_common
import lab_data
from lab_data import Claim, Collection

MODEL = "bundled"  # a sentence encoder, whose features can be compared by cosine
POOLINGS = {"[CLS]": lab_common.cls_pooling, "mean": lab_common.mean_pooling}
QUICK_DOCUMENTS = 300  # documents of a quick run
K1 = (0.9, 1.2, 1.5, 2.0)  # of BM25; with a smaller k1 repeated words count less
B = (0.2, 0.3, 0.4, 0.5, 0.75)  # of BM25; with a larger b long documents count less
WEIGHTS = [round(0.05 * step, 2) for step in range(21)]  # of BM25 in a weighted sum
RANK_CONSTANT = 60  # of reciprocal rank fusion, the value of its authors
FOLDS = 5  # of the training claims
A = [round(0.1 * step, 1) for step in range(11)]  # weights of a trained model in an interpolation
BATCH = 32  # claims
SEEDS = 3  # of trainings on all training claims, whose measures are averaged
RESAMPLES = 10_000  # of the test claims, for a confidence interval
SHOWN = 5  # documents printed for --query


class Setting(NamedTuple):
    """Settings of a training."""

    epochs: int
    learning_rate: float
    temperature: float  # divides the cosines, which differ too little for a softmax


# chosen on the held-out claims: tests/expected/lab_retrieval_settings.txt; 20 epochs are as good
MAP = Setting(10, 1e-3, 0.05)
TUNING = Setting(6, 2e-4, 0.03)  # of --finetune; no others were compared


class Split(NamedTuple):
    """Claims, and how the two kinds of retrieval read them."""

    claims: list[Claim]
    bm25: np.ndarray  # standardised scores, (claims, documents)
    inputs: list  # of the trained model: the features of each claim, (width,), or its token ids

    def part(self, rows: np.ndarray) -> "Split":
        """Return some of the claims."""
        inputs = [self.inputs[row] for row in rows]
        return Split([self.claims[row] for row in rows], self.bm25[rows], inputs)


def thin_out(collection: Collection, size: int) -> Collection:
    """Return about `size` evenly spaced documents, and the claims about these documents alone."""
    step = max(1, len(collection.titles) // size)
    claims = {
        split: [
            Claim(claim.text, {index // step: grade for index, grade in claim.relevant.items()})
            for claim in rows
            if all(index % step == 0 for index in claim.relevant)
        ]
        for split, rows in collection.claims.items()
    }
    return Collection(collection.titles[::step], collection.abstracts[::step], claims)


# --- 1. Measures, from 0 to 1 for each claim -----------------------------------------------------


def relevant_ranks(scores: np.ndarray, claims: list[Claim]) -> list[np.ndarray]:
    """Return the ranks, from 1, of the documents that are relevant to each claim.

    `scores` is (claims, documents). Documents with equal scores keep their order.
    """
    return [
        np.array([1 + (row > row[i]).sum() + (row[:i] == row[i]).sum() for i in claim.relevant])
        for row, claim in zip(scores, claims, strict=True)
    ]


def ndcg(scores: np.ndarray, claims: list[Claim]) -> np.ndarray:
    """Return the nDCG@10 of each claim: (claims,) (Järvelin and Kekäläinen 2002).

    Each relevant document among the first ten adds its grade times a discount: 1 at rank 1, 0.63 at
    rank 2, 0.29 at rank 10. The sum is divided by that of the best ranking, so 1 is perfect.
    """
    values = []
    for ranks, claim in zip(relevant_ranks(scores, claims), claims, strict=True):
        grades = np.array(list(claim.relevant.values()))
        best_grades = np.sort(grades)[::-1][:10]
        best_ranks = np.arange(1, 1 + len(best_grades))
        gain = (grades / np.log2(1 + ranks))[ranks <= 10].sum()
        values.append(gain / (best_grades / np.log2(1 + best_ranks)).sum())
    return np.array(values)


def recall(scores: np.ndarray, claims: list[Claim], depth: int) -> np.ndarray:
    """Return the fraction of each claim's relevant documents among the first `depth`: (claims,)."""
    return np.array([(ranks <= depth).mean() for ranks in relevant_ranks(scores, claims)])


def reciprocal_rank(scores: np.ndarray, claims: list[Claim]) -> np.ndarray:
    """Return 1 / rank of each claim's first relevant document, or 0 below rank 10: (claims,).

    The mean over the claims is the MRR@10.
    """
    first = np.array([ranks.min() for ranks in relevant_ranks(scores, claims)])
    return np.where(first <= 10, 1 / first, 0.0)


# --- 2. BM25 and fusion --------------------------------------------------------------------------


def split_words(texts: list[str], return_ids: bool = True) -> Tokenized | list[list[str]]:
    """Return the stems of the words of each text, without stop words such as "the".

    With `return_ids` they are numbers, for an index; without, strings.
    """
    stemmer = Stemmer.Stemmer("english")
    options = {"stopwords": "en", "stemmer": stemmer, "show_progress": False}
    return bm25s.tokenize(texts, return_ids=return_ids, **options)


def bm25(words: Tokenized, claims: list[str], k1: float, b: float) -> np.ndarray:
    """Return the BM25 scores, (claims, documents) (Robertson and Zaragoza 2009).

    `words` are those of the documents. Each word of the claim adds its rarity times its frequency
    in the document; k1 limits the frequency, and b relates it to the length of the document.
    """
    index = bm25s.BM25(k1=k1, b=b)
    with common.errors_in("the documents have no words for BM25"):
        index.index(words, show_progress=False)
    zeros: np.ndarray = np.zeros(len(words.ids), np.float32)  # for a claim of stop words alone
    stems = split_words(claims, return_ids=False)
    return np.stack([index.get_scores(row) if any(row) else zeros for row in stems])


def standardise(scores: np.ndarray) -> np.ndarray:
    """Scale the scores of each claim to mean 0 and standard deviation 1 over the documents.

    The rankings stay the same, and scores of different kinds can be added.
    """
    deviation = scores.std(1, keepdims=True)
    deviation[deviation == 0] = 1.0  # no word of the claim occurs in any document
    return (scores - scores.mean(1, keepdims=True)) / deviation


def fuse(bm25_scores: np.ndarray, dense_scores: np.ndarray, weight: float) -> np.ndarray:
    """Return the weighted sum of standardised scores; `weight` is that of BM25."""
    return weight * bm25_scores + (1 - weight) * dense_scores


def choose_weight(bm25_scores: np.ndarray, dense_scores: np.ndarray, claims: list[Claim]) -> float:
    """Return the weight of BM25 with the best mean nDCG@10 of these claims.

    The scores are standardised, (claims, documents).
    """
    return max(WEIGHTS, key=lambda w: ndcg(fuse(bm25_scores, dense_scores, w), claims).mean())


def reciprocal_rank_fusion(*all_scores: np.ndarray) -> np.ndarray:
    """Return the sum of 1 / (60 + rank) over several scores (Cormack et al. 2009).

    It needs no weight, but ignores how far apart two scores are. Equal scores share a mean rank.
    """
    ranks = [rankdata(-scores, axis=1) for scores in all_scores]  # (claims, documents) each, from 1
    return np.sum([1 / (RANK_CONSTANT + rank) for rank in ranks], axis=0)


# --- 3. Training the vectors of the claims -------------------------------------------------------


class LinearMap(nn.Module):
    """A linear map of frozen features. It starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Map the features of each claim, (width,), to vectors (claims, width)."""
        return torch.stack(features) @ self.weight.T


class ClaimEncoder(nn.Module):
    """An encoder with its pooling, for --finetune."""

    def __init__(self, encoder: PreTrainedModel, pooling: lab_common.Pooling) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling

    def forward(self, ids: list[list[int]]) -> torch.Tensor:
        """Encode the token ids of claims to vectors (claims, width)."""
        batch = lab_common.pad_batch(ids, self.encoder.device)
        states = self.encoder(**batch).last_hidden_state  # (claims, time, width)
        return self.pooling((states,), batch["attention_mask"])


def train(
    start: nn.Module, split: Split, documents: torch.Tensor, setting: Setting, seed: int
) -> nn.Module:
    """Return a copy of `start`, trained to bring each claim closest to its own documents.

    `documents` are vectors of length 1, (documents, width), which stay the same. The contrastive
    loss is the cross-entropy of a softmax over the cosines with all documents (van den Oord et al.
    2018). It is small if the relevant documents get nearly all of the probability. With a small
    temperature, only documents that are nearly as close as the relevant ones matter.
    """
    common.seed_everything(seed)
    model = copy.deepcopy(start).eval()  # without dropout

    def batch_loss(batch: list[int]) -> torch.Tensor:
        targets = torch.zeros(len(batch), len(documents), device=documents.device)
        for row, claim in enumerate(batch):
            relevant = list(split.claims[claim].relevant)
            targets[row, relevant] = 1 / len(relevant)  # a probability
        vectors = normalize(model([split.inputs[claim] for claim in batch]))  # (batch, width)
        cosines = vectors @ documents.T  # (batch, documents)
        return cross_entropy(cosines / setting.temperature, targets)

    batches = lab_common.random_batches(len(split.claims), BATCH, setting.epochs)
    # weight decay would pull the map to zero, not to the identity
    lab_common.train(model, batch_loss, batches, setting.learning_rate, weight_decay=0.0)
    return model


def interpolate(start: nn.Module, trained: nn.Module, a: float) -> nn.Module:
    """Return a model with the weights (1 - a) * start + a * trained (Wortsman et al. 2022)."""
    model = copy.deepcopy(start)
    for weight, trained_weight in zip(model.parameters(), trained.parameters(), strict=True):
        weight.data.lerp_(trained_weight.data, a)
    return model


@torch.inference_mode()
def dense_scores(model: nn.Module, inputs: list, documents: torch.Tensor) -> np.ndarray:
    """Return the cosines of claims and documents, standardised: (claims, documents).

    `documents` are vectors of length 1, (documents, width).
    """
    batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
    vectors = normalize(torch.cat([model(batch) for batch in batches]))  # (claims, width)
    return standardise((vectors @ documents.T).cpu().numpy())


def disjoint_folds(claims: list[Claim], documents: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return five pairs: the indices of claims to train on, and of held-out claims.

    No document is relevant to claims of both. Claims that share a document, directly or through
    other claims, are one component of a graph, and components stay together.
    """
    edges = [(i, len(claims) + j) for i, claim in enumerate(claims) for j in claim.relevant]
    size = len(claims) + documents
    graph = coo_array((np.ones(len(edges)), np.transpose(edges)), shape=(size, size))
    _, components = connected_components(graph, directed=False)
    groups = components[: len(claims)]  # (claims,)
    with common.errors_in("too few training claims about different documents"):
        return list(GroupKFold(FOLDS).split(groups, groups=groups))


def choose(
    start: nn.Module, split: Split, documents: torch.Tensor, setting: Setting, seed: int
) -> tuple[float, float, list[float]]:
    """Return the `a` and the weight of BM25 that are best for held-out claims.

    The claims of each fold are ranked by a model that is trained on the other folds. The `a` is the
    best for the cosine alone, by the mean nDCG@10, which is also returned for each of `A`.
    """
    folds = [
        (train(start, split.part(kept), documents, setting, seed), split.part(held_out))
        for kept, held_out in disjoint_folds(split.claims, len(documents))
    ]
    claims = [claim for _, part in folds for claim in part.claims]

    def held_out_scores(a: float) -> np.ndarray:
        parts = (
            dense_scores(interpolate(start, model, a), part.inputs, documents)
            for model, part in folds
        )
        return np.concatenate([*parts])  # (claims, documents)

    values = [ndcg(held_out_scores(a), claims).mean() for a in A]
    a = A[int(np.argmax(values))]
    bm25_scores = np.concatenate([part.bm25 for _, part in folds])  # (claims, documents)
    return a, choose_weight(bm25_scores, held_out_scores(a), claims), values


# --- 4. Results ----------------------------------------------------------------------------------


def measure(scores: np.ndarray, claims: list[Claim]) -> pd.DataFrame:
    """Return the measures of each claim, (claims, 4)."""
    return pd.DataFrame(
        {
            "nDCG@10": ndcg(scores, claims),
            "Recall@10": recall(scores, claims, 10),
            "Recall@100": recall(scores, claims, 100),
            "MRR@10": reciprocal_rank(scores, claims),
        }
    )


def mean_ndcg(row: list[pd.DataFrame]) -> pd.Series:
    """Return the nDCG@10 of each claim, the mean over the seeds: (claims,)."""
    return sum(row)["nDCG@10"] / len(row)


def print_table(rows: dict[str, list[pd.DataFrame]], is_new: np.ndarray) -> None:
    """Print the means of each row, which has the measures of the test claims for each seed.

    `is_new` is (claims,). The last column is the standard deviation of nDCG@10 over the seeds.
    """
    lines = {}
    for name, row in rows.items():
        seeds = np.std([measures["nDCG@10"].mean() for measures in row])
        means = (sum(row) / len(row)).mean()
        lines[name] = {**means, "new": mean_ndcg(row)[is_new].mean(), "± seeds": seeds}
    print(pd.DataFrame(lines).T.to_string(float_format="{:.4f}".format))


def print_difference(
    rows: dict[str, list[pd.DataFrame]], name: str, baseline: str, is_new: np.ndarray
) -> None:
    """Print by how much the nDCG@10 of a row exceeds that of another, with a 95 % interval.

    The interval is a paired bootstrap: the claims are drawn many times with replacement.
    """
    gains = (mean_ndcg(rows[name]) - mean_ndcg(rows[baseline])).to_numpy()  # (claims,)
    parts = []
    for label, part in (("all claims", gains), ("new abstracts", gains[is_new])):
        if len(part):
            means = np.random.default_rng(0).choice(part, (RESAMPLES, len(part))).mean(1)
            low, high = np.quantile(means, (0.025, 0.975))
            parts.append(f"{label} {part.mean():+.3f} ({low:+.3f} to {high:+.3f})")
    common.note(f"nDCG@10 of {name!r} less {baseline!r}, 95 % interval: {', '.join(parts)}")


def draw_curve(curve: pd.DataFrame, a: float) -> None:
    """Draw the columns of a table against its index, and mark the chosen `a`."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name in curve:
        axes.plot(curve.index, curve[name], "o-", label=name)
    axes.axvline(a, color="grey", linewidth=1, label="chosen on the held-out claims")
    axes.set(xlabel="a: from the untrained map (0) to the trained one (1)", ylabel="nDCG@10")
    axes.legend()
    common.save_figure(figure, common.RESULTS / "lab_retrieval.png")


def answer_query(
    query: str, saved: dict, collection: Collection, encode: Callable[..., torch.Tensor]
) -> None:
    """Print the best documents for a query, with the closest sentence of each.

    `saved` comes from a run; `encode` turns texts into vectors of length 1, (texts, width).
    """
    common.note(f"searching {len(collection.titles):,} documents")
    vector = normalize(encode([query]) @ saved["map"].T)  # (1, width)
    dense = standardise((vector @ saved["documents"].T).numpy())  # (1, documents)
    sparse = standardise(bm25(split_words(collection.documents()), [query], *saved["bm25"]))
    scores = fuse(sparse, dense, saved["weight"])[0]  # (documents,)
    for index in np.argsort(-scores, kind="stable")[:SHOWN]:
        sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])", collection.abstracts[index])
        vectors = encode([query, *sentences])  # (1 + sentences, width)
        closest = sentences[int((vectors[1:] @ vectors[0]).argmax())]
        print(f"{scores[index]:6.3f}  {common.printable(collection.titles[index])}")
        print(f"        {common.printable(closest)}")


def main(argv: list[str] | None = None) -> int:
    """Rank the documents in every way; with --query, show the best documents for one query."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", "--data", model=MODEL)
    text = "data set (default: scifact)"
    parser.add_argument("--dataset", choices=("scifact", "docstrings"), help=text)
    parser.add_argument("--query", metavar="TEXT", help="show the best documents for this query")
    parser.add_argument("--finetune", action="store_true", help="also train the encoder")
    arguments = parser.parse_args(argv)
    if arguments.query is not None and not arguments.query.strip():
        raise common.ScriptError("--query is empty; give a sentence to search for")
    device = common.select_device(arguments.device)

    # 1. The collection and the encoder
    dataset, collection = lab_data.load_or_docstrings(
        arguments, "scifact", lab_data.load_collection
    )
    if arguments.quick:
        collection = thin_out(collection, QUICK_DOCUMENTS)
    texts = collection.documents()
    folder = common.find_model(arguments.model, MODEL, bundled.encoder)
    tokenizer = common.load(AutoTokenizer, folder)
    encoder = common.load(AutoModel, folder).to(device)
    pooling = lab_common.sentence_pooling(encoder)  # the one that the encoder was trained with
    name = dataset or arguments.data.resolve().name
    path = common.RESULTS / f"lab_retrieval_{name}{'_quick' * arguments.quick}.pt"
    origin = f"{folder} {zlib.crc32(repr(texts).encode())}"

    def encode(sentences: list[str]) -> torch.Tensor:
        """Return vectors of length 1: (sentences, width)."""
        features = lab_common.encode(encoder, tokenizer, sentences, {"own": pooling})["own"]
        return normalize(torch.from_numpy(features))

    if arguments.query is not None:
        if not path.exists():
            raise common.ScriptError(f"{path}: no such file; run the script once without --query")
        saved = common.load_tensors(path)
        if saved.get("origin") != origin:
            problem = "saved for other documents or another model"
            raise common.ScriptError(f"{path}: {problem}; run the script again without --query")
        answer_query(arguments.query, saved, collection, encode)
        return 0

    claims = lab_data.remove_duplicates(collection.claims, text=lambda claim: claim.text)
    if empty := [split for split in claims if not claims[split]]:
        raise common.ScriptError(f"no {empty[0]} claims are left; use more documents")
    cited = {index for claim in claims["train"] for index in claim.relevant}
    is_new = np.array([not cited & claim.relevant.keys() for claim in claims["test"]])  # (claims,)
    print(
        f"{len(texts):,} documents; {len(claims['train'])} claims to train on, "
        f"{len(claims['test'])} to test on, {is_new.sum()} of them about new documents\n"
    )

    # 2. BM25: k1 and b are chosen on the training claims
    words = split_words(texts)
    queries = {split: [claim.text for claim in claims[split]] for split in claims}
    k1, b = max(
        product(K1, B),
        key=lambda pair: ndcg(bm25(words, queries["train"], *pair), claims["train"]).mean(),
    )
    sparse = {split: standardise(bm25(words, queries[split], k1, b)) for split in claims}
    rows = {f"BM25, k1 {k1:g}, b {b:g}": [measure(sparse["test"], claims["test"])]}

    # 3. Frozen features: every text is encoded once
    features = {
        part: lab_common.encode(encoder, tokenizer, part_texts, POOLINGS)
        for part, part_texts in {"documents": texts, **queries}.items()
    }
    for kind in POOLINGS:
        vectors, test_vectors = (
            normalize(torch.from_numpy(features[part][kind])) for part in ("documents", "test")
        )
        cosines = (test_vectors @ vectors.T).numpy()  # (claims, documents)
        rows[f"{kind} cosine"] = [measure(cosines, claims["test"])]
    own = next(kind for kind, function in POOLINGS.items() if function is pooling)
    documents = normalize(torch.from_numpy(features["documents"][own])).to(device)
    inputs = {split: [*torch.from_numpy(features[split][own]).to(device)] for split in claims}
    training, test = (Split(claims[name], sparse[name], inputs[name]) for name in claims)
    identity = LinearMap(documents.shape[1]).to(device)
    weight = choose_weight(
        training.bm25, dense_scores(identity, training.inputs, documents), training.claims
    )
    dense = dense_scores(identity, test.inputs, documents)
    untrained = f"BM25 + {own} cosine, weight {weight:g}"
    rows[f"BM25 + {own} cosine, reciprocal ranks"] = [
        measure(reciprocal_rank_fusion(test.bm25, dense), test.claims)
    ]
    rows[untrained] = [measure(fuse(test.bm25, dense, weight), test.claims)]

    # 4. Trained vectors: `a` and the weight of BM25 are chosen on held-out training claims
    trainings: dict[str, tuple] = {"map": (identity, training, test, MAP)}
    if arguments.finetune:
        ids = {split: lab_common.tokenize(encoder, tokenizer, queries[split]) for split in claims}
        parts = (Split(claims[name], sparse[name], ids[name]) for name in claims)
        trainings["encoder"] = (ClaimEncoder(encoder, pooling), *parts, TUNING)
    seeds = range(arguments.seed, arguments.seed + SEEDS)
    curves, comparisons = {}, []
    for kind, (start, training, test, setting) in trainings.items():
        a, weight, held_out = choose(start, training, documents, setting, arguments.seed)
        models = [train(start, training, documents, setting, seed) for seed in seeds]
        name, fused = f"{kind}, a {a:g}", f"BM25 + {kind}, a {a:g}, weight {weight:g}"
        curve = pd.DataFrame({"held-out claims": held_out}, index=pd.Index(A, name="a"))
        for mix in A:
            mixed = [interpolate(start, model, mix) for model in models]
            all_scores = [dense_scores(model, test.inputs, documents) for model in mixed]
            row = [measure(scores, test.claims) for scores in all_scores]
            curve.loc[mix, "test claims"] = mean_ndcg(row).mean()
            curve.loc[mix, "new"] = mean_ndcg(row)[is_new].mean()
            if mix == a:
                sums = [fuse(test.bm25, scores, weight) for scores in all_scores]
                rows |= {name: row, fused: [measure(scores, test.claims) for scores in sums]}
        curves[kind] = curve
        comparisons += [(name, f"{own} cosine"), (fused, untrained)]
        if kind == "map":
            weights = interpolate(start, models[0], a).weight.data
            content = {"map": weights.cpu(), "documents": documents.cpu(), "bm25": [k1, b]}
            content |= {"weight": weight, "a": a, "origin": origin}

    # 5. Results
    print_table(rows, is_new)
    for kind, curve in curves.items():
        print(f"\nnDCG@10 of the {kind} between untrained (a = 0) and trained (a = 1)")
        print(curve.to_string(float_format="{:.4f}".format))
    for name, baseline in comparisons:
        print_difference(rows, name, baseline, is_new)
    draw_curve(curves["map"], content["a"])
    common.save_tensors(path, content)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
