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
abstracts that no training claim cites. The second table and the picture show both between the
untrained map, the identity (a = 0), and the trained one (a = 1).

    python lab_retrieval.py
    python lab_retrieval.py --query "Vitamin D protects against colds."   after a run: the best five
    python lab_retrieval.py --finetune               also train the encoder of the claims
    python lab_retrieval.py --dataset docstrings     summaries of functions, and their descriptions
    python lab_retrieval.py --data DIR               a collection in BEIR's form: corpus.jsonl,
                                                     queries.jsonl, qrels/train.tsv, qrels/test.tsv

Takes four minutes, most of them for encoding the abstracts; --finetune takes longer. Expect an
nDCG@10 of 0.76, and of 0.75 for claims about new abstracts.
"""

import copy
import os
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

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
SEEDS = 3  # trainings on all training claims, whose measures are averaged
RESAMPLES = 10_000  # of the test claims, for a confidence interval
SHOWN = 5  # documents printed for --query


class Setting(NamedTuple):
    """Settings of a training."""

    epochs: int
    learning_rate: float
    temperature: float  # divides the cosines, which differ too little for a softmax


MAP = Setting(10, 1e-3, 0.03)  # in these folds better than a rate of 3e-3 and temperature 0.05
TUNING = Setting(6, 2e-4, 0.03)  # of --finetune; no others were compared


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
    """Scale the scores of each claim to mean 0 and standard deviation 1 over the documents."""
    deviation = scores.std(1, keepdims=True)
    deviation[deviation == 0] = 1.0  # no word of the claim occurs in any document
    return (scores - scores.mean(1, keepdims=True)) / deviation


def weighted_sum(bm25_scores: np.ndarray, dense_scores: np.ndarray, weight: float) -> np.ndarray:
    """Return the weighted sum of standardised scores; `weight` is that of BM25."""
    return weight * standardise(bm25_scores) + (1 - weight) * standardise(dense_scores)


def choose_weight(bm25_scores: np.ndarray, cosines: np.ndarray, claims: list[Claim]) -> float:
    """Return the weight of BM25 with the best mean nDCG@10 of these claims."""
    return max(WEIGHTS, key=lambda w: ndcg(weighted_sum(bm25_scores, cosines, w), claims).mean())


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
    start: nn.Module, inputs: list, claims: list[Claim], documents: torch.Tensor, setting: Setting
) -> nn.Module:
    """Return a copy of `start`, trained to bring each claim closest to its own documents.

    `documents` are vectors of length 1, (documents, width), which stay the same. The contrastive
    loss is the cross-entropy of a softmax over the cosines with all documents (van den Oord et al.
    2018). It is small if the relevant documents get nearly all of the probability. With a small
    temperature, only documents that are nearly as close as the relevant ones matter.
    """
    model = copy.deepcopy(start).eval()  # without dropout

    def batch_loss(batch: list[int]) -> torch.Tensor:
        targets = torch.zeros(len(batch), len(documents), device=documents.device)
        for row, claim in enumerate(batch):
            relevant = list(claims[claim].relevant)
            targets[row, relevant] = 1 / len(relevant)  # a probability
        vectors = normalize(model([inputs[claim] for claim in batch]))  # (batch, width)
        cosines = vectors @ documents.T  # (batch, documents)
        return cross_entropy(cosines / setting.temperature, targets)

    batches = lab_common.random_batches(len(claims), BATCH, setting.epochs)
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
def cosine_scores(model: nn.Module, inputs: list, documents: torch.Tensor) -> np.ndarray:
    """Return the cosine of each claim and each document, (claims, documents).

    `documents` are vectors of length 1, (documents, width).
    """
    batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
    vectors = normalize(torch.cat([model(batch) for batch in batches]))  # (claims, width)
    return (vectors @ documents.T).cpu().numpy()


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


def train_seeds(seeds: range, *training: Any) -> list[nn.Module]:
    """Return a model for each seed, trained with the arguments of `train`."""
    models = []
    for seed in seeds:
        common.seed_everything(seed)
        models.append(train(*training))
    return models


def choose_a(
    start: nn.Module, inputs: list, claims: list[Claim], documents: torch.Tensor, setting: Setting
) -> tuple[float, np.ndarray, list[float]]:
    """Return the `a` with the best mean nDCG@10 on held-out claims.

    The claims of each fold are ranked by a model that is trained on the other folds. Also returns
    their cosines with the best `a`, (claims, documents), and the nDCG@10 with each.
    """
    folds = disjoint_folds(claims, len(documents))
    models = [
        train(start, [inputs[i] for i in kept], [claims[i] for i in kept], documents, setting)
        for kept, _ in folds
    ]
    values: list[float] = []
    scores: np.ndarray = np.empty((len(claims), len(documents)), np.float32)
    best_scores = scores.copy()
    for a in A:
        for model, (_, held_out) in zip(models, folds, strict=True):
            mixed = interpolate(start, model, a)
            scores[held_out] = cosine_scores(mixed, [inputs[i] for i in held_out], documents)
        values.append(ndcg(scores, claims).mean())
        if values.index(max(values)) == len(values) - 1:  # better than all before
            best_scores[:] = scores
    return A[values.index(max(values))], best_scores, values


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


def print_table(rows: dict[str, list[pd.DataFrame]], is_new: np.ndarray) -> None:
    """Print the means of rows, which have the measures of each claim for one or several seeds.

    `is_new` is (claims,). The last column is the standard deviation of nDCG@10 over the seeds.
    """
    lines = {}
    for name, frames in rows.items():
        mean = sum(frames) / len(frames)
        seeds = np.std([frame["nDCG@10"].mean() for frame in frames])
        lines[name] = {**mean.mean(), "new": mean["nDCG@10"][is_new].mean(), "± seeds": seeds}
    print(pd.DataFrame(lines).T.to_string(float_format="{:.4f}".format))


def print_difference(
    rows: dict[str, list[pd.DataFrame]], name: str, baseline: str, is_new: np.ndarray
) -> None:
    """Print by how much a row's nDCG@10 exceeds another's, with a 95 % interval.

    The interval is a paired bootstrap: the claims are drawn many times with replacement.
    """
    first, second = (sum(rows[key])["nDCG@10"] / len(rows[key]) for key in (name, baseline))
    parts = []
    for label, chosen in (("all claims", np.ones_like(is_new)), ("new abstracts", is_new)):
        gains = (first - second)[chosen].to_numpy()
        if len(gains):
            samples = np.random.default_rng(0).choice(gains, (RESAMPLES, len(gains))).mean(1)
            low, high = np.quantile(samples, (0.025, 0.975))
            parts.append(f"{label} {gains.mean():+.3f} ({low:+.3f} to {high:+.3f})")
    common.note(f"nDCG@10 of {name!r} less {baseline!r}, 95 % interval: {', '.join(parts)}")


def curve_table(
    held_out: list[float],
    cosines: dict[float, list[np.ndarray]],
    claims: list[Claim],
    is_new: np.ndarray,
) -> pd.DataFrame:
    """Return the mean nDCG@10 for each `a`: of held-out claims, of `claims` and of the new ones.

    `cosines` are those of `claims` for each `a` and each seed, (claims, documents).
    """
    values = {a: np.mean([ndcg(scores, claims) for scores in cosines[a]], axis=0) for a in A}
    columns = {
        "held-out claims": held_out,
        "test claims": [values[a].mean() for a in A],
        "new": [values[a][is_new].mean() if is_new.any() else np.nan for a in A],
    }
    return pd.DataFrame(columns, index=pd.Index(A, name="a"))


def draw_curve(curve: pd.DataFrame, a: float) -> None:
    """Draw the columns of a table against its index, and the chosen `a`."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name in curve:
        axes.plot(curve.index, curve[name], "o-", label=name)
    axes.axvline(a, color="grey", linewidth=1, label="chosen on the held-out claims")
    axes.set(xlabel="a: from the untrained map (0) to the trained one (1)", ylabel="nDCG@10")
    axes.legend()
    common.save_figure(figure, common.RESULTS / "lab_retrieval.png")


def print_answers(
    query: str, scores: np.ndarray, collection: Collection, encode: Callable[..., torch.Tensor]
) -> None:
    """Print the documents with the highest scores, (documents,), and the closest sentence of each.

    `encode` turns texts into vectors of length 1, (texts, width).
    """
    for index in np.argsort(-scores, kind="stable")[:SHOWN]:
        sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])", collection.abstracts[index])
        vectors = encode([query, *sentences])  # (1 + sentences, width)
        closest = sentences[int((vectors[1:] @ vectors[0]).argmax())]
        print(f"{scores[index]:6.3f}  {common.printable(collection.titles[index])}")
        print(f"        {common.printable(closest)}")


def answer_query(
    query: str, path: Path, collection: Collection, encode: Callable[..., torch.Tensor]
) -> None:
    """Print the best documents for a query, with what a run has saved in `path`."""
    if not path.exists():
        raise common.ScriptError(f"{path}: no such file; run the script once without --query")
    saved = common.load_tensors(path)
    with common.errors_in(path):
        if len(saved["documents"]) != len(collection.titles):
            raise common.ScriptError(f"{path}: saved for other documents; run without --query")
        words = split_words(collection.documents())
        bm25_scores = bm25(words, [query], *saved["bm25"])
        vector = normalize(encode([query]) @ saved["map"].T)  # (1, width)
        scores = weighted_sum(bm25_scores, (vector @ saved["documents"].T).numpy(), saved["weight"])
        print_answers(query, scores[0], collection, encode)


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
    folder = common.find_model(arguments.model, MODEL, bundled.encoder)
    tokenizer = common.load(AutoTokenizer, folder)
    encoder = common.load(AutoModel, folder).to(device)
    pooling = lab_common.sentence_pooling(encoder)

    def encode(texts: list[str]) -> torch.Tensor:
        """Return the vectors of texts, of length 1: (texts, width)."""
        features = lab_common.encode(encoder, tokenizer, texts, {"own": pooling})["own"]
        return normalize(torch.from_numpy(features))

    name = dataset or arguments.data.resolve().name
    path = common.RESULTS / f"lab_retrieval_{name}{'_quick' * arguments.quick}.pt"
    if arguments.query is not None:
        answer_query(arguments.query, path, collection, encode)
        return 0
    train_claims, test_claims = collection.claims["train"], collection.claims["test"]
    cited = {index for claim in train_claims for index in claim.relevant}
    is_new = np.array([not cited & claim.relevant.keys() for claim in test_claims])  # (test,)
    print(
        f"{len(collection.titles):,} documents; {len(train_claims)} claims to train on, "
        f"{len(test_claims)} to test on, {is_new.sum()} of them about new documents"
    )

    # 2. BM25: k1 and b are chosen on the training claims
    words = split_words(collection.documents())
    texts = {split: [claim.text for claim in rows] for split, rows in collection.claims.items()}
    train_bm25 = {pair: bm25(words, texts["train"], *pair) for pair in product(K1, B)}
    k1, b = max(train_bm25, key=lambda pair: ndcg(train_bm25[pair], train_claims).mean())
    train_scores, test_scores = train_bm25[k1, b], bm25(words, texts["test"], k1, b)

    # 3. Frozen features: every text is encoded once
    features = {
        part: lab_common.encode(encoder, tokenizer, rows, POOLINGS)
        for part, rows in {"documents": collection.documents(), **texts}.items()
    }
    rows = {f"BM25, k1 {k1:g}, b {b:g}": [measure(test_scores, test_claims)]}
    for kind in POOLINGS:
        vectors, claims = (
            normalize(torch.from_numpy(features[part][kind])) for part in ("documents", "test")
        )
        cosines = (claims @ vectors.T).numpy()  # (claims, documents)
        rows[f"{kind} cosine"] = [measure(cosines, test_claims)]
    own = next(kind for kind, function in POOLINGS.items() if function is pooling)
    documents = normalize(torch.from_numpy(features["documents"][own])).to(device)
    inputs = {split: [*torch.from_numpy(features[split][own]).to(device)] for split in texts}
    identity = LinearMap(documents.shape[1]).to(device)
    frozen = {split: cosine_scores(identity, inputs[split], documents) for split in texts}
    weight = choose_weight(train_scores, frozen["train"], train_claims)
    untrained = f"BM25 + {own} cosine, weight {weight:g}"
    fused = weighted_sum(test_scores, frozen["test"], weight)
    rows[untrained] = [measure(fused, test_claims)]

    # 4. Trained vectors: `a` and the weight of BM25 are chosen on the folds
    trainings = {"map": (identity, inputs, MAP)}
    if arguments.finetune:
        ids = {split: lab_common.tokenize(encoder, tokenizer, texts[split]) for split in texts}
        trainings["encoder"] = (ClaimEncoder(encoder, pooling), ids, TUNING)
    for kind, (start, kind_inputs, setting) in trainings.items():
        common.seed_everything(arguments.seed)
        training = start, kind_inputs["train"], train_claims, documents, setting
        a, held_out, values = choose_a(*training)
        weight = choose_weight(train_scores, held_out, train_claims)
        models = train_seeds(range(arguments.seed, arguments.seed + SEEDS), *training)
        cosines = {
            mix: [
                cosine_scores(interpolate(start, model, mix), kind_inputs["test"], documents)
                for model in models
            ]
            for mix in A
        }
        dense, fusion = f"{kind}, a {a:g}", f"BM25 + {kind}, a {a:g}, weight {weight:g}"
        rows[dense] = [measure(scores, test_claims) for scores in cosines[a]]
        rows[fusion] = [
            measure(weighted_sum(test_scores, scores, weight), test_claims) for scores in cosines[a]
        ]
        rows[f"BM25 + {kind}, a {a:g}, reciprocal ranks"] = [
            measure(reciprocal_rank_fusion(test_scores, scores), test_claims)
            for scores in cosines[a]
        ]
        if kind == "map":
            trained_rows, curve = (dense, fusion), curve_table(values, cosines, test_claims, is_new)
            content = {"map": interpolate(start, models[0], a).weight.data.cpu()}
            content |= {"documents": documents.cpu(), "bm25": [k1, b], "weight": weight, "a": a}

    # 5. Results
    print_table(rows, is_new)
    print("\nnDCG@10 of the map between untrained (a = 0) and trained (a = 1)")
    print(curve.to_string(float_format="{:.4f}".format))
    print_difference(rows, trained_rows[0], f"{own} cosine", is_new)
    print_difference(rows, trained_rows[1], untrained, is_new)
    draw_curve(curve, content["a"])
    common.save_tensors(path, content)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
