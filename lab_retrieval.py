"""Lab exercise 3.3: retrieve the abstracts that support or refute a scientific claim (SciFact).

Read these first: `train_claims` (its loss is the lesson), `fuse`, then `main`. A *document*
is an abstract with its title. It is *relevant* to a claim if it supports or refutes the claim.

- BM25 scores a document by the words it shares with the claim. Rare words count more, and words in
  long documents count less.
- Dense retrieval scores a document by the cosine of its features and the claim's: the last hidden
  state of [CLS], or the mean over the tokens. It also finds documents that use other words.
- A linear map of the claims' features is trained to bring each claim closer to its relevant
  documents than to all others. The encoder is frozen, so every text is encoded once.
- Fusion is a weighted sum of the standardised scores of BM25 and of dense retrieval.

Two thirds of SciFact's test claims are about a document that is relevant to a training claim too.
A model that only remembers these documents looks good. So alpha, see below, is chosen on held-out
training claims, about documents that are relevant to no claim trained on. Every other choice is
made on all training claims, before anything is trained. The column `new` shows the test claims
about new documents.

The weights of the map in the table lie between the identity (alpha = 0) and the trained map
(alpha = 1). A small alpha remembers less. The second table and the picture show nDCG@10 for each
alpha.

    python lab_retrieval.py
    python lab_retrieval.py --query "Vitamin D protects against colds."   after a run: the best five
    python lab_retrieval.py --model NAME             another encoder, of the Hub or in a folder;
                                                     texts are encoded without prompts
    python lab_retrieval.py --finetune               also train the encoder of the claims
    python lab_retrieval.py --dataset docstrings     summaries of functions, and their descriptions
    python lab_retrieval.py --data DIR               a collection in BEIR's form: corpus.jsonl,
                                                     queries.jsonl, qrels/train.tsv, qrels/test.tsv

Takes four to seven minutes, most of them for encoding the abstracts, and half an hour more with
--finetune. For BM25 + map expect an nDCG@10 of 0.77, and of 0.75 for claims about new documents.
nDCG@10 is 1 if the relevant documents come first, and 0 if none of them is among the first ten.
"""

import argparse
import copy
import math
import os
import re
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads yield the CPU

import bm25s
import numpy as np
import pandas as pd
import Stemmer
import torch
from matplotlib.figure import Figure
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupKFold
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel, AutoTokenizer

import bundled
import common
import lab_common
import lab_data
from lab_data import Claim, Collection

MODEL = "bundled"  # a sentence encoder, whose features can be compared by cosine
POOLINGS = {"[CLS]": lab_common.cls_pooling, "mean": lab_common.mean_pooling}
MAX_CLAIMS = 2_000  # of a split; the scores of all claims and documents are in memory
QUICK_DOCUMENTS = 300  # documents of a quick run
K1 = (0.9, 1.2, 1.5, 2.0)  # of BM25; with a smaller k1 repeated words count less
B = (0.2, 0.3, 0.4, 0.5, 0.75)  # of BM25; with a larger b long documents count less
BM25_WEIGHTS = [round(0.05 * step, 2) for step in range(21)]  # in a weighted sum with cosines
FOLDS = 5  # of the training claims
ALPHAS = [round(0.1 * step, 1) for step in range(11)]  # fraction of the trained weights in a model
BATCH_SIZE = 32  # claims
SEEDS = 3  # of trainings on all training claims, whose measures are averaged
RESAMPLES = 10_000  # of the test claims, for a confidence interval
SHOWN = 5  # documents printed for --query

Measures = list[pd.DataFrame]  # of the test claims, from each seed: (claims, measures)


class Setting(NamedTuple):
    """Settings of a training."""

    epochs: int
    learning_rate: float
    temperature: float  # divides the cosines, which differ too little for a softmax


# of the map; the settings that were compared hardly differ on the held-out claims:
# tests/expected/lab_retrieval_settings.txt
MAP_SETTING = Setting(10, 1e-3, 0.05)
ENCODER_SETTING = Setting(6, 2e-4, 0.03)  # of --finetune; no others were compared


# --- 1. The claims -------------------------------------------------------------------------------


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


def load_collection(arguments: argparse.Namespace) -> tuple[str, Collection]:
    """Return the name of a collection and the collection; print the numbers of its claims.

    Claims that are in both splits are left out of the training. At most `MAX_CLAIMS` claims of a
    split are used, evenly spaced.
    """
    name, collection = lab_data.load_or_docstrings(arguments, "scifact", lab_data.load_collection)
    if arguments.quick:
        collection = thin_out(collection, QUICK_DOCUMENTS)
    claims = lab_data.remove_duplicates(collection.claims, text=lambda claim: claim.text)
    claims = {split: rows[:: math.ceil(len(rows) / MAX_CLAIMS)] for split, rows in claims.items()}
    known = {index for claim in claims["train"] for index in claim.relevant}
    are_new = [not known & claim.relevant.keys() for claim in claims["test"]]
    print(
        f"{len(collection.titles):,} documents; {len(claims['train'])} claims to train on, "
        f"{len(claims['test'])} to test on, {sum(are_new)} of them about new documents\n"
    )
    pairs = zip(claims["test"], are_new, strict=True)
    collection.claims = claims | {"test": [claim._replace(is_new=new) for claim, new in pairs]}
    return name or str(arguments.data), collection


# --- 2. Measures, from 0 to 1 for each claim -----------------------------------------------------


def ndcg(ranks: np.ndarray, grades: np.ndarray) -> float:
    """Return the nDCG@10 of a claim (Järvelin and Kekäläinen 2002).

    `ranks` and `grades` are those of its relevant documents, (relevant,) each. A document among the
    first ten adds its grade times a discount: 1 at rank 1, 0.63 at rank 2, 0.29 at rank 10. The sum
    is divided by that of the best ranking, so 1 is perfect.
    """
    best_grades = np.sort(grades)[::-1][:10]
    best_ranks = np.arange(1, 1 + len(best_grades))
    gain = (grades / np.log2(1 + ranks))[ranks <= 10].sum()
    return gain / (best_grades / np.log2(1 + best_ranks)).sum()


def measure_claim(scores: np.ndarray, claim: Claim) -> dict[str, float]:
    """Return the measures of a claim. `scores` is (documents,); equal scores keep their order.

    Recall is the fraction of the relevant documents among the first 10 or 100. MRR is 1 / rank of
    the first relevant document, or 0 below rank 10. `new` is nDCG@10, or NaN if a relevant
    document is relevant to a training claim too.
    """
    # 1, and the documents with a higher score, or with the same score and an earlier place
    ranks = np.array(
        [1 + (scores > scores[i]).sum() + (scores[:i] == scores[i]).sum() for i in claim.relevant]
    )
    value = ndcg(ranks, np.array([*claim.relevant.values()]))
    return {
        "nDCG@10": value,
        "Recall@10": (ranks <= 10).mean(),
        "Recall@100": (ranks <= 100).mean(),
        "MRR@10": 1 / ranks.min() if ranks.min() <= 10 else 0.0,
        "new": value if claim.is_new else np.nan,
    }


def measure(scores: np.ndarray, claims: list[Claim]) -> pd.DataFrame:
    """Return the measures, a row per claim. `scores` is (claims, documents)."""
    return pd.DataFrame([measure_claim(*pair) for pair in zip(scores, claims, strict=True)])


def mean_ndcg(scores: np.ndarray, claims: list[Claim]) -> float:
    """Return the mean nDCG@10 of claims, by which every setting is chosen."""
    return measure(scores, claims)["nDCG@10"].mean()


# --- 3. BM25, frozen features and fusion ---------------------------------------------------------


def split_words(texts: list[str]) -> list[list[str]]:
    """Return the stems of the words of each text, without stop words such as "the"."""
    options = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    return bm25s.tokenize(texts, return_ids=False, **options)


def bm25(documents: list[list[str]], queries: list[list[str]], k1: float, b: float) -> np.ndarray:
    """Return the BM25 scores of documents: (queries, documents) (Robertson and Zaragoza 2009).

    `queries` are the words of claims. Each word adds its rarity * f / (f + k1 * (1 - b + b * l)),
    where f is its frequency in the document, and l the document's length over the mean length.
    """
    if not any(documents):
        raise common.ScriptError("the documents have no words for BM25")
    index = bm25s.BM25(k1=k1, b=b)
    index.index(documents, show_progress=False)
    ids = [index.get_tokens_ids(words) for words in queries]  # of the words that documents have
    return np.stack([index.get_scores_from_ids(row) for row in ids])


def choose_bm25(
    documents: list[list[str]], queries: list[list[str]], claims: list[Claim]
) -> tuple[float, float]:
    """Return the k1 and the b with the best mean nDCG@10 of these claims."""
    return max(product(K1, B), key=lambda pair: mean_ndcg(bm25(documents, queries, *pair), claims))


def encode(
    encoder: Any, tokenizer: Any, texts: list[str], poolings: lab_common.Poolings
) -> dict[str, torch.Tensor]:
    """Return the frozen features of texts by each pooling: (texts, width)."""
    features = lab_common.encode(encoder, tokenizer, texts, poolings)
    return {name: torch.from_numpy(features[name]).to(encoder.device) for name in poolings}


def standardise(scores: np.ndarray) -> np.ndarray:
    """Scale the scores of each claim to mean 0 and standard deviation 1 over the documents.

    The rankings stay the same, and scores of different kinds can be added.
    """
    deviation = scores.std(1, keepdims=True)
    deviation[deviation == 0] = 1.0  # no word of the claim occurs in any document
    return (scores - scores.mean(1, keepdims=True)) / deviation


def fuse(bm25_scores: np.ndarray, cosines: np.ndarray, bm25_weight: float) -> np.ndarray:
    """Return the weighted sum of the standardised scores: (claims, documents)."""
    return bm25_weight * standardise(bm25_scores) + (1 - bm25_weight) * standardise(cosines)


def choose_bm25_weight(bm25_scores: np.ndarray, cosines: np.ndarray, claims: list[Claim]) -> float:
    """Return the weight of BM25 with the best mean nDCG@10 of these claims."""
    return max(BM25_WEIGHTS, key=lambda w: mean_ndcg(fuse(bm25_scores, cosines, w), claims))


# --- 4. Training the vectors of the claims -------------------------------------------------------


class Split(NamedTuple):
    """Claims, and the inputs of the model that is trained.

    These are features for a map, (claims, width), and texts for an encoder, (claims,).
    """

    claims: list[Claim]
    inputs: torch.Tensor | np.ndarray

    def select(self, indices: np.ndarray) -> "Split":
        """Return some of the claims."""
        return Split([self.claims[index] for index in indices], self.inputs[indices])


def identity_map(width: int) -> nn.Linear:
    """Return a linear map of features, (claims, width). It starts as the identity."""
    linear = nn.Linear(width, width, bias=False)
    nn.init.eye_(linear.weight)
    return linear


def train_claims(
    untrained: nn.Module, split: Split, documents: torch.Tensor, setting: Setting, seed: int
) -> nn.Module:
    """Return a copy of a model, trained to bring each claim closest to its relevant documents.

    `documents` are vectors of length 1, (documents, width), which stay the same. The loss treats
    each document as a class: it is the cross-entropy between the softmax of the cosines and the
    relevant documents (van den Oord et al. 2018). A small temperature makes the closest wrong
    documents count most.
    """
    common.seed_everything(seed)
    model = copy.deepcopy(untrained).eval()  # trained without dropout

    def batch_loss(batch: list[int]) -> torch.Tensor:
        targets = torch.zeros(len(batch), len(documents), device=documents.device)
        for row, index in enumerate(batch):
            relevant = list(split.claims[index].relevant)
            targets[row, relevant] = 1 / len(relevant)  # a probability
        vectors = normalize(model(split.inputs[batch]))  # (batch, width)
        return cross_entropy(vectors @ documents.T / setting.temperature, targets)

    batches = lab_common.random_batches(len(split.claims), BATCH_SIZE, setting.epochs)
    # weight decay would pull the map to zero, not to the identity
    lab_common.train(model, batch_loss, batches, setting.learning_rate, weight_decay=0.0)
    return model


def interpolate(untrained: nn.Module, trained: nn.Module, alpha: float) -> nn.Module:
    """Return a model with the weights (1 - alpha) * untrained + alpha * trained.

    Wortsman et al. (2022) interpolate so between a pretrained and a fine-tuned model.
    """
    model = copy.deepcopy(trained)
    for first, last in zip(untrained.parameters(), model.parameters(), strict=True):
        last.data = torch.lerp(first.data, last.data, alpha)
    return model


@torch.inference_mode()
def cosine_scores(
    model: nn.Module, inputs: torch.Tensor | np.ndarray, documents: torch.Tensor
) -> np.ndarray:
    """Return the cosines of claims and documents: (claims, documents).

    `documents` are vectors of length 1, (documents, width).
    """
    batches = [inputs[start : start + BATCH_SIZE] for start in range(0, len(inputs), BATCH_SIZE)]
    vectors = torch.cat([model(batch) for batch in batches])  # (claims, width)
    return (normalize(vectors) @ documents.T).cpu().numpy()


class ClaimEncoder(nn.Module):
    """An encoder with its tokenizer and its pooling, for --finetune."""

    def __init__(self, encoder: Any, tokenizer: Any, pooling: lab_common.Pooling) -> None:
        super().__init__()
        self.encoder, self.tokenizer, self.pooling = encoder, tokenizer, pooling

    def forward(self, texts: np.ndarray) -> torch.Tensor:
        """Encode the texts of claims, (claims,), to vectors (claims, width)."""
        ids = lab_common.tokenize(self.encoder, self.tokenizer, texts.tolist())
        batch = lab_common.pad_batch(ids, self.encoder.device)
        states = self.encoder(**batch).last_hidden_state  # (claims, time, width)
        return self.pooling((states,), batch["attention_mask"])


def disjoint_folds(claims: list[Claim]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of folds: the indices of claims to train on, and of held-out claims.

    No document is relevant to claims of both. Claims that share a document, directly or through
    other claims, are in one group and stay together.
    """
    claim_ids = [index for index, claim in enumerate(claims) for _ in claim.relevant]
    document_ids = [document for claim in claims for document in claim.relevant]
    ones = np.ones(len(claim_ids))
    is_relevant = csr_array((ones, (claim_ids, document_ids)))  # (claims, documents)
    # the product counts the documents that two claims share: (claims, claims)
    _, groups = connected_components(is_relevant @ is_relevant.T)  # (claims,)
    with common.errors_in("too few training claims about different documents"):
        return list(GroupKFold(FOLDS).split(groups, groups=groups))


def held_out_ndcg(
    untrained: nn.Module, split: Split, documents: torch.Tensor, setting: Setting, seed: int
) -> list[float]:
    """Return the mean nDCG@10 of held-out claims for each of `ALPHAS`.

    The claims of each fold are ranked by a model that is trained on the other folds.
    """
    trained = [
        (train_claims(untrained, split.select(kept), documents, setting, seed), held_out)
        for kept, held_out in disjoint_folds(split.claims)
    ]
    values = []
    for alpha in ALPHAS:
        scores: np.ndarray = np.empty((len(split.claims), len(documents)), np.float32)
        for model, held_out in trained:
            mixed = interpolate(untrained, model, alpha)
            scores[held_out] = cosine_scores(mixed, split.inputs[held_out], documents)
        values.append(mean_ndcg(scores, split.claims))
    return values


class Result(NamedTuple):
    """A trained model, with the alpha that is best for the held-out claims."""

    alpha: float
    cosines: list[np.ndarray]  # of the test claims, from each seed: (claims, documents)
    curve: pd.DataFrame  # mean nDCG@10 for each of `ALPHAS`
    model: nn.Module  # the one of the first seed


def train_and_test(
    untrained: nn.Module, splits: list[Split], documents: torch.Tensor, setting: Setting, seed: int
) -> Result:
    """Choose alpha on held-out claims, train on all training claims with each seed, and test."""
    training, test = splits
    values = held_out_ndcg(untrained, training, documents, setting, seed)
    best_alpha = ALPHAS[int(np.argmax(values))]
    models = [train_claims(untrained, training, documents, setting, seed + i) for i in range(SEEDS)]
    curve = pd.DataFrame({"held-out claims": values}, pd.Index(ALPHAS, name="alpha"))
    for alpha in ALPHAS:
        mixed = [interpolate(untrained, model, alpha) for model in models]
        cosines = [cosine_scores(model, test.inputs, documents) for model in mixed]
        means = pd.concat([measure(scores, test.claims) for scores in cosines]).mean()
        curve.loc[alpha, ["test claims", "new"]] = means["nDCG@10"], means["new"]
        if alpha == best_alpha:
            result = Result(alpha, cosines, curve, mixed[0])  # the loop goes on filling `curve`
    return result


# --- 5. Results ----------------------------------------------------------------------------------


def print_table(table: dict[str, Measures]) -> None:
    """Print the mean measures of each row, and the standard deviation of nDCG@10 over the seeds."""
    lines = {}
    for name, seeds in table.items():
        means = pd.DataFrame([measures.mean() for measures in seeds])  # (seeds, measures)
        lines[name] = {**means.mean(), "± seeds": means["nDCG@10"].std()}  # NaN for a single seed
    print(pd.DataFrame(lines).T.to_string(float_format="{:.4f}".format, na_rep="-"))


def print_difference(table: dict[str, Measures], name: str, baseline: str) -> None:
    """Print by how much the nDCG@10 of a row exceeds that of another, with a 95 % interval.

    The interval is a paired bootstrap: the claims are drawn many times with replacement.
    """
    # of each claim, the mean over the seeds
    first, second = (pd.concat(table[row]).groupby(level=0).mean() for row in (name, baseline))
    parts = []
    for label, column in (("all claims", "nDCG@10"), ("new documents", "new")):
        gains = (first[column] - second[column]).dropna().to_numpy()  # (claims,)
        if len(gains):
            means = np.random.default_rng(0).choice(gains, (RESAMPLES, len(gains))).mean(1)
            low, high = np.quantile(means, (0.025, 0.975))
            parts.append(f"{label} {gains.mean():+.3f} ({low:+.3f} to {high:+.3f})")
    common.note(f"nDCG@10 of {name!r} less {baseline!r}, 95 % interval: {', '.join(parts)}")


def draw_curve(curve: pd.DataFrame) -> None:
    """Draw the columns of a table against alpha, and mark the chosen one."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name in curve:
        label = "test claims about new documents" if name == "new" else name
        axes.plot(curve.index, curve[name], "o-", label=label)
    chosen = curve["held-out claims"].idxmax()
    axes.axvline(chosen, color="grey", linewidth=1, label="chosen on the held-out claims")
    axes.set(xlabel="alpha: from the untrained map (0) to the trained one (1)", ylabel="nDCG@10")
    axes.legend()
    common.save_figure(figure, common.RESULTS / "lab_retrieval.png")


# --- 6. Searching the documents of the last run --------------------------------------------------


def answer_query(query: str, path: Path, device: torch.device) -> None:
    """Print the documents of a saved run that are best for a query, with their closest sentences.

    Raises `ScriptError` if no run was saved.
    """
    if not path.exists():
        raise common.ScriptError(f"{path}: no such file; run the script once without --query")
    saved = common.load_tensors(path, device)
    tokenizer = common.load(AutoTokenizer, Path(saved["model"]))
    encoder = common.load(AutoModel, Path(saved["model"])).to(device)
    collection = Collection(saved["titles"], saved["abstracts"], {})
    common.note(f"searching {len(collection.titles):,} documents of {saved['name']}")

    def encode_sentences(sentences: list[str]) -> torch.Tensor:
        pooling = saved["pooling"]
        poolings = {pooling: POOLINGS[pooling]}
        return normalize(encode(encoder, tokenizer, sentences, poolings)[pooling])

    vector = normalize(encode_sentences([query]) @ saved["map"].T)  # (1, width)
    dense = (vector @ saved["documents"].T).cpu().numpy()  # (1, documents)
    words = split_words(collection.documents())
    sparse = bm25(words, split_words([query]), *saved["bm25"])  # (1, documents)
    scores = fuse(sparse, dense, saved["weight"])[0]  # (documents,)
    for index in np.argsort(-scores, kind="stable")[:SHOWN]:
        sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])", collection.abstracts[index])
        # (1 + sentences, width); without the map, which was trained on whole documents
        vectors = encode_sentences([query, *sentences])
        closest = sentences[int((vectors[1:] @ vectors[0]).argmax())]
        print(f"{scores[index]:6.3f}  {common.printable(collection.titles[index])}")
        print(f"        {common.printable(closest)}")


# --- 7. The script -------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", "--data", model=MODEL)
    text = "data set (default: scifact)"
    parser.add_argument("--dataset", choices=("scifact", "docstrings"), help=text)
    text = "search the documents of the last run"
    parser.add_argument("--query", type=common.not_empty, metavar="TEXT", help=text)
    parser.add_argument("--finetune", action="store_true", help="also train the encoder")
    arguments = parser.parse_args(argv)
    if arguments.query is not None and (arguments.data or arguments.dataset or arguments.model):
        parser.error("--query searches the last run; leave out --data, --dataset and --model")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Rank the documents in every way; with --query, show the best documents for one query."""
    arguments = parse_arguments(argv)
    device = common.select_device(arguments.device)
    path = common.RESULTS / ("lab_retrieval_quick.pt" if arguments.quick else "lab_retrieval.pt")
    if arguments.query is not None:
        answer_query(arguments.query, path, device)
        return 0
    name, collection = load_collection(arguments)
    claims = collection.claims  # of each split
    texts = {split: [claim.text for claim in claims[split]] for split in claims}
    texts["documents"] = collection.documents()
    folder = common.find_model(arguments.model, MODEL, bundled.encoder)
    tokenizer = common.load(AutoTokenizer, folder)
    encoder = common.load(AutoModel, folder).to(device)
    table: dict[str, Measures] = {}

    # 1. BM25: k1 and b are chosen on the training claims
    tokens = {part: split_words(texts[part]) for part in texts}
    k1, b = choose_bm25(tokens["documents"], tokens["train"], claims["train"])
    bm25_scores = {split: bm25(tokens["documents"], tokens[split], k1, b) for split in claims}
    table[f"BM25, k1 {k1:g}, b {b:g}"] = [measure(bm25_scores["test"], claims["test"])]

    # 2. Cosines of frozen features: the pooling is chosen on the training claims
    poolings = lab_common.usable_poolings(tokenizer, POOLINGS)
    features = {part: encode(encoder, tokenizer, texts[part], poolings) for part in texts}
    identity = identity_map(encoder.config.hidden_size).to(device)  # nothing is trained
    cosines = {}
    for kind in poolings:
        vectors = normalize(features["documents"][kind])  # (documents, width)
        cosines[kind] = {
            split: cosine_scores(identity, features[split][kind], vectors) for split in claims
        }
        table[f"{kind} cosine"] = [measure(cosines[kind]["test"], claims["test"])]
    pooling = max(poolings, key=lambda kind: mean_ndcg(cosines[kind]["train"], claims["train"]))

    # 3. Fusion: the weight of BM25 is chosen on the training claims, before anything is trained
    frozen = cosines[pooling]
    weight = choose_bm25_weight(bm25_scores["train"], frozen["train"], claims["train"])
    baseline = f"{pooling} cosine"
    fused_baseline = f"BM25 + {baseline}, weight {weight:g}"
    scores = fuse(bm25_scores["test"], frozen["test"], weight)
    table[fused_baseline] = [measure(scores, claims["test"])]

    # 4. Training: alpha is chosen on held-out training claims
    documents = normalize(features["documents"][pooling])  # (documents, width)
    splits = [Split(claims[split], features[split][pooling]) for split in claims]
    results = {"map": train_and_test(identity, splits, documents, MAP_SETTING, arguments.seed)}
    if arguments.finetune:
        model = ClaimEncoder(encoder, tokenizer, poolings[pooling])
        splits = [Split(claims[split], np.array(texts[split])) for split in claims]
        results["encoder"] = train_and_test(
            model, splits, documents, ENCODER_SETTING, arguments.seed
        )

    # 5. Results
    for kind, result in results.items():
        row = f"{kind}, alpha {result.alpha:g}"
        fused_row = f"BM25 + {row}, weight {weight:g}"
        table[row] = [measure(scores, claims["test"]) for scores in result.cosines]
        fused = [fuse(bm25_scores["test"], scores, weight) for scores in result.cosines]
        table[fused_row] = [measure(scores, claims["test"]) for scores in fused]
        print_difference(table, row, baseline)
        print_difference(table, fused_row, fused_baseline)
    print_table(table)
    for kind, result in results.items():
        print(f"\nnDCG@10 of the {kind} between untrained (alpha = 0) and trained (1)")
        print(result.curve.to_string(float_format="{:.4f}".format))
    draw_curve(results["map"].curve)
    saved = {
        "name": name,
        "model": str(folder.resolve()),
        "pooling": pooling,
        "titles": collection.titles,
        "abstracts": collection.abstracts,
        "bm25": [k1, b],
        "documents": documents.cpu(),
        "map": results["map"].model.weight.data.cpu(),
        "weight": weight,
    }
    common.save_tensors(path, saved)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
