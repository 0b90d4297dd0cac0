"""Lab exercise 3.3: find the abstracts that speak for or against a scientific claim (SciFact).

Words and meanings find different documents, so the best is to ask both:

- BM25 counts the claim's words in a document, rare words more, in long documents less.
- The cosine of two texts' features, [CLS] or the mean of their tokens, finds other wordings too.
- A trained encoder: every training claim shall be nearer to its own abstract than to those of the
  other claims of a batch, and to one that BM25 takes for it, which is a harder lesson.
- Fusion: the scores of both kinds, standardised, in a weighted sum.

All that is chosen, is chosen on the training claims.

    python lab_retrieval.py
    python lab_retrieval.py --query "Vitamin D protects against colds."     the five best documents
    python lab_retrieval.py --data DIR           any collection in BEIR's form: corpus.jsonl,
                                                 queries.jsonl, qrels/train.tsv, qrels/test.tsv

The first run takes a quarter of an hour, the next ones, and those with --query, half a minute:
features and the trained encoder are kept in results/. Expect an nDCG@10 of 0.78.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import common

if TYPE_CHECKING:
    import torch
    from bm25s.tokenization import Tokenized
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
else:
    torch = common.LazyModule("torch")

MODEL = "bundled"  # a sentence encoder: its means of tokens can be compared
COLLECTION = common.HubDataset("BeIR/scifact", 5, config="corpus")
CLAIMS = common.HubDataset("BeIR/scifact", 5, config="queries")
JUDGEMENTS = common.HubDataset("BeIR/scifact-qrels", 1)
FILES = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv")
QUICK_DOCUMENTS = 150  # beside those that a claim of the quick run is about
QUICK_CLAIMS = 40  # to train on, and to test on
K1 = (0.9, 1.2, 1.5, 2.0)  # BM25's: the smaller, the sooner a word has counted enough
B = (0.4, 0.75, 0.9)  # BM25's: how much long documents lose
RANK_CONSTANT = 60  # of reciprocal-rank fusion, as its authors have it
WEIGHTS = [round(0.05 * step, 2) for step in range(21)]  # of BM25 in a weighted sum
LONGEST = 512  # tokens of a document that are read: as many as the encoder has positions for
DEPTH = 100  # documents of a ranking that are looked at
EPOCHS, BATCH, RATE = 3, 32, 5e-5
TEMPERATURE = 0.05  # a cosine's whole range is two: without it, no document could be ruled out
TRAINING_TOKENS = 160  # of a document; reading on takes longer and is not worth it
HARD = 30  # of the documents that BM25 puts first, one of so many is a hard negative
SHOWN = 5  # documents of an answer

MEAN = {"mean": common.mean_token}

Qrels = dict[int, dict[int, int]]  # how relevant documents are to a claim, for those that are


@dataclass
class Collection:
    """Documents, claims, and which of the first are relevant to which of the second."""

    titles: list[str]
    abstracts: list[str]
    claims: list[str]
    qrels: dict[str, Qrels]  # of the split `train` and of `test`

    def documents(self) -> list[str]:
        """Return the documents' texts, titles first."""
        return [f"{t} {a}" for t, a in zip(self.titles, self.abstracts, strict=True)]


def is_score(text: str) -> bool:
    """Tell whether a text is a whole number that may be a score."""
    return text.isdecimal() and len(text) < 10


def read_collection(folder: Path | None) -> Collection:
    """Read a collection in BEIR's form from a folder, or SciFact from the Hub.

    Raises `ScriptError` for judgements of what is not there, and where a split has none.
    """
    if folder is None:
        documents = common.hub_table(COLLECTION, "corpus").to_dict("records")
        claims = common.hub_table(CLAIMS, "queries").to_dict("records")
    else:
        common.check_folder(folder, *FILES)
        documents = common.read_jsonl(folder / "corpus.jsonl", _id=str, title=str, text=str)
        claims = common.read_jsonl(folder / "queries.jsonl", _id=str, text=str)
    places = {row["_id"]: place for place, row in enumerate(documents)}
    numbers = {row["_id"]: number for number, row in enumerate(claims)}
    qrels: dict[str, Qrels] = {}
    for split in ("train", "test"):
        if folder is None:
            where, table = JUDGEMENTS.name, common.hub_table(JUDGEMENTS, split).astype(str)
        else:
            path = folder / "qrels" / f"{split}.tsv"
            where, table = str(path), common.read_csv(path, sep="\t")
        if list(table.columns) != ["query-id", "corpus-id", "score"]:
            raise common.ScriptError(f"{where}: the columns are not query-id, corpus-id, score")
        qrels[split] = {}
        for row, (claim, document, score) in enumerate(table.itertuples(index=False), start=2):
            if claim not in numbers or document not in places or not is_score(score):
                raise common.ScriptError(
                    f"{where}: row {row}: no claim {claim!r}, no document {document!r}, or no "
                    f"score {score!r}"
                )
            if int(score) > 0:
                qrels[split].setdefault(numbers[claim], {})[places[document]] = int(score)
        if not qrels[split]:
            raise common.ScriptError(f"{where}: no document is relevant to any claim")
    titles, abstracts = ([row[key] for row in documents] for key in ("title", "text"))
    return Collection(titles, abstracts, [row["text"] for row in claims], qrels)


def small_part(whole: Collection) -> Collection:
    """Return a few claims with their documents, and some other documents, for a quick run."""
    few = {name: dict(list(each.items())[:QUICK_CLAIMS]) for name, each in whole.qrels.items()}
    asked = sorted({claim for each in few.values() for claim in each})
    judged = {place for each in few.values() for relevant in each.values() for place in relevant}
    read = sorted({*judged, *range(min(QUICK_DOCUMENTS, len(whole.titles)))})
    numbers = {claim: number for number, claim in enumerate(asked)}
    places = {place: new for new, place in enumerate(read)}
    return Collection(
        [whole.titles[place] for place in read],
        [whole.abstracts[place] for place in read],
        [whole.claims[claim] for claim in asked],
        {
            name: {
                numbers[claim]: {places[place]: score for place, score in relevant.items()}
                for claim, relevant in each.items()
            }
            for name, each in few.items()
        },
    )


def ndcg(ranking: np.ndarray, relevant: dict[int, int], depth: int = 10) -> float:
    """Return the discounted cumulative gain of a ranking's top, as a share of the best possible.

    A relevant document's gain is its score, divided by the logarithm of its rank plus one to base
    2 (Järvelin and Kekäläinen 2002; gains as trec_eval has them, not their exponentials).
    """
    gains = [relevant.get(int(place), 0) for place in ranking[:depth]]
    best = sorted(relevant.values(), reverse=True)[:depth]
    found, possible = (
        sum(gain / np.log2(rank + 1) for rank, gain in enumerate(each, start=1))
        for each in (gains, best)
    )
    return float(found / possible)


def recall(ranking: np.ndarray, relevant: dict[int, int], depth: int) -> float:
    """Return which share of the relevant documents is at the top of a ranking."""
    return sum(int(place) in relevant for place in ranking[:depth]) / len(relevant)


def reciprocal_rank(ranking: np.ndarray, relevant: dict[int, int], depth: int = 10) -> float:
    """Return 1 / the rank of the first relevant document, or 0 if the top has none."""
    ranks = (rank for rank, place in enumerate(ranking[:depth], 1) if int(place) in relevant)
    return 1 / next(ranks, np.inf)


def best_documents(scores: np.ndarray, depth: int = DEPTH) -> np.ndarray:
    """Return the places of the documents with the highest scores, best first; ties in order."""
    depth = min(depth, scores.shape[-1])
    last = np.partition(scores, -depth, axis=-1)[..., -depth, None]  # sorting all takes longer
    above, level = scores > last, scores == last
    first = level.cumsum(-1) <= depth - above.sum(-1, keepdims=True)  # of those that tie
    top = np.nonzero(above | level & first)[-1].reshape(*scores.shape[:-1], depth)
    order = np.argsort(-np.take_along_axis(scores, top, -1), axis=-1, kind="stable")
    return np.take_along_axis(top, order, -1)


def mean_ndcg(scores: np.ndarray, qrels: Qrels) -> float:
    """Return the mean nDCG@10 of scores, (claim, document), one row for each claim of `qrels`."""
    tops = best_documents(scores, 10)
    return float(np.mean([ndcg(top, each) for top, each in zip(tops, qrels.values(), strict=True)]))


def split_words(texts: list[str], **options: bool) -> Tokenized | list[list[str]]:
    """Split texts into words without endings, so that `cells` is `cell`; leave out the commonest.

    Returns what bm25s indexes, or with `return_ids=False` a list of words for each text.
    """
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False, **options)


def bm25(words: Tokenized, claims: list[str], k1: float, b: float) -> np.ndarray:
    """Return the score of every document for every claim (Robertson and Zaragoza 2009).

    `words` are the documents', from `split_words`; the scores are (claim, document). A claim that
    has no word left scores 0 everywhere.
    """
    import bm25s

    index = bm25s.BM25(k1=k1, b=b)
    index.index(words, show_progress=False)
    nothing = np.zeros(index.scores["num_docs"], dtype=np.float32)
    asked = split_words(claims, return_ids=False)
    return np.stack([index.get_scores(claim) if claim else nothing for claim in asked])


def choose_bm25(words: Tokenized, claims: list[str], qrels: Qrels) -> tuple[float, float]:
    """Return the k1 and b with the best nDCG@10 on the claims of `qrels`; for words see `bm25`."""
    asked = [claims[claim] for claim in qrels]
    return max(product(K1, B), key=lambda pair: mean_ndcg(bm25(words, asked, *pair), qrels))


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine of every row of `left` and every row of `right`: (left, right)."""
    left, right = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (left, right))
    return left @ right.T


def standardise(scores: np.ndarray) -> np.ndarray:
    """Give the scores of every claim the mean 0 and the deviation 1 over all documents."""
    deviation = scores.std(1, keepdims=True)
    deviation[deviation == 0] = 1.0  # no word of the claim is in any document
    return (scores - scores.mean(1, keepdims=True)) / deviation


def reciprocal_ranks(*several: np.ndarray) -> np.ndarray:
    """Return the sum of 1 / (60 + rank) over these scores (Cormack, Clarke and Büttcher 2009)."""
    ranks = [best_documents(scores, scores.shape[1]).argsort(1) + 1 for scores in several]
    return np.sum([1 / (RANK_CONSTANT + each) for each in ranks], axis=0)


def weighted_sum(words: np.ndarray, meaning: np.ndarray, weight: float) -> np.ndarray:
    """Return the standardised scores of both, the words' with this weight of a total of 1."""
    return weight * standardise(words) + (1 - weight) * standardise(meaning)


def choose_weight(words: np.ndarray, meaning: np.ndarray, qrels: Qrels) -> float:
    """Return the words' weight with the best nDCG@10 on these claims, of equals the middle one."""
    words, meaning = (standardise(scores[list(qrels)]) for scores in (words, meaning))
    worth = [mean_ndcg(share * words + (1 - share) * meaning, qrels) for share in WEIGHTS]
    best = [weight for weight, each in zip(WEIGHTS, worth, strict=True) if each == max(worth)]
    return best[len(best) // 2]


def split_sentences(abstract: str) -> list[str]:
    """Split a text behind full stops and the like, where a blank and a capital or digit follow."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(\[])", abstract.strip())


def train_encoder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    collection: Collection,
    words: np.ndarray,
    epochs: int,
) -> None:
    """Train the encoder to tell a claim's abstract from others by the mean of its tokens.

    The others are those of the other claims in a batch, and for each claim one of those that BM25,
    `words` (claim, document), puts first though they are not relevant. Cross-entropy over the
    cosines (van den Oord et al. 2018; Karpukhin et al. 2020). Nothing is dropped out: that would
    take half as long again.
    """
    random = np.random.default_rng(torch.initial_seed())
    qrels = collection.qrels["train"]
    pairs = [(claim, place) for claim, relevant in qrels.items() for place in relevant]
    asked = common.tokenize(tokenizer, collection.claims, TRAINING_TOKENS)
    read = common.tokenize(tokenizer, collection.documents(), TRAINING_TOKENS)
    hard = {
        claim: [place for place in best_documents(words[claim]) if place not in relevant][:HARD]
        for claim, relevant in qrels.items()
    }

    def directions(ids: list[list[int]]) -> torch.Tensor:
        inputs = common.pad(ids, model.device)
        states = (model(**inputs).last_hidden_state,)
        return torch.nn.functional.normalize(common.mean_token(states, inputs["attention_mask"]))

    def loss(batch: list[int]) -> torch.Tensor:
        claims, right = zip(*(pairs[number] for number in batch), strict=True)
        wrong = {int(random.choice(hard[claim])) for claim in claims if hard[claim]}
        places = sorted({*right, *wrong}, key=lambda place: (len(read[place]), place))
        few = [places[start : start + 8] for start in range(0, len(places), 8)]  # little to pad
        documents = torch.cat([directions([read[place] for place in part]) for part in few])
        logits = directions([asked[claim] for claim in claims]) @ documents.T / TEMPERATURE
        for row, claim in enumerate(claims):  # what is relevant too is not to be pushed away
            also = [place in qrels[claim] and place != right[row] for place in places]
            logits[row, torch.tensor(also)] = -torch.inf
        targets = torch.tensor([places.index(place) for place in right], device=model.device)
        return torch.nn.functional.cross_entropy(logits, targets)

    model.eval()
    common.tune(model, loss, common.random_batches(len(pairs), BATCH, epochs), RATE)


def print_table(rows: dict[str, np.ndarray], qrels: Qrels) -> None:
    """Print the means over the claims of what each row's scores, (claim, document), are worth."""
    print(f"\n{'':36}{'nDCG@10':>9}{'Recall@10':>11}{'Recall@100':>12}{'MRR@10':>8}")
    for name, scores in rows.items():
        tops = best_documents(scores[list(qrels)])
        pairs = list(zip(tops, qrels.values(), strict=True))
        figures = (
            np.mean([ndcg(top, relevant) for top, relevant in pairs]),
            np.mean([recall(top, relevant, 10) for top, relevant in pairs]),
            np.mean([recall(top, relevant, 100) for top, relevant in pairs]),
            np.mean([reciprocal_rank(top, relevant) for top, relevant in pairs]),
        )
        print(f"{name:36}{figures[0]:9.4f}{figures[1]:11.4f}{figures[2]:12.4f}{figures[3]:8.4f}")


def fit_encoder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    collection: Collection,
    words: np.ndarray,
    seed: int,
    epochs: int,
    path: Path,
) -> None:
    """Train the encoder, or give it the weights that the same training left in `path` before."""
    settings = (BATCH, RATE, TEMPERATURE, TRAINING_TOKENS, HARD, seed, epochs)
    content = common.digest(model, collection, words.sum(), settings).hexdigest()
    if path.exists():
        with contextlib.suppress(ValueError):  # no file of ours: it is written anew
            weights, about = common.load_weights(path, model.device)
            if about.get("content") == content:
                model.load_state_dict(weights)
                common.note(f"using the encoder trained before ({path})")
                return
    common.seed_everything(seed)
    train_encoder(model, tokenizer, collection, words, epochs)
    common.save_weights(path, model.state_dict(), {"content": content})


def print_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    scores: np.ndarray,
    collection: Collection,
) -> None:
    """Print the best documents by these scores, (document,), and the sentence nearest in each."""
    for place in best_documents(scores, SHOWN):
        sentences = split_sentences(collection.abstracts[place])
        ids = common.tokenize(tokenizer, [question, *sentences])
        features = common.compute_features(model, ids, MEAN)["mean"]
        near = cosines(features[:1], features[1:])[0]
        print(f"{scores[place]:6.3f}  {collection.titles[place]}")
        print(f"{near.max():8.3f}  {sentences[near.argmax()]}")


def main(argv: list[str] | None = None) -> int:
    """Rank all documents in every way, or show what the best way finds for one question."""
    parser = common.argument_parser(__doc__, "--seed", "--device", "--quick", "--data", model=MODEL)
    parser.add_argument("--query", metavar="TEXT", help="show what is found for it, and end")
    arguments = parser.parse_args(argv)
    if arguments.query is not None and not arguments.query.strip():
        raise common.ScriptError("--query: there is nothing to look for")
    collection = read_collection(arguments.data)
    if arguments.quick:
        collection = small_part(collection)
    train, test = collection.qrels["train"], collection.qrels["test"]
    documents, claims = collection.documents(), collection.claims
    folder = common.find_encoder(arguments.model)
    tokenizer = common.load_tokenizer(folder)
    model = common.load_model(folder, "AutoModel", common.select_device(arguments.device))

    def cosine(pools: Mapping[str, common.Pool], texts: list[str]) -> list[np.ndarray]:
        """Encode texts and documents and return their cosines: (text, document) for each pool."""
        asked, read = (
            common.encode(model, tokenizer, x, pools, LONGEST) for x in (texts, documents)
        )
        return [cosines(asked[pool], read[pool]) for pool in pools]

    split = split_words(documents)
    k1, b = choose_bm25(split, claims, train)
    words = bm25(split, claims, k1, b)
    first, mean = cosine({"[CLS]": common.first_token, **MEAN}, claims)
    # the trained encoder knows the training claims by heart, and would be trusted too much there
    weight = choose_weight(words, mean, train)
    epochs, name = (1, "_quick") if arguments.quick else (EPOCHS, "")
    path = common.RESULTS / f"lab_retrieval{name}.safetensors"
    fit_encoder(model, tokenizer, collection, words, arguments.seed, epochs, path)

    if arguments.query is not None:
        asked = [arguments.query]
        words, (trained,) = bm25(split, asked, k1, b), cosine(MEAN, asked)
        scores = weighted_sum(words, trained, weight)[0]
        print_answer(model, tokenizer, arguments.query, scores, collection)
        return 0
    (trained,) = cosine(MEAN, claims)
    print(
        f"{len(documents):,} documents; {len(train)} claims to train on, with "
        f"{sum(map(len, train.values()))} relevant documents; {len(test)} claims to test on"
    )
    share = f"{weight:g} : {1 - weight:g}"
    rows = {
        f"BM25, k1 {k1:g}, b {b:g}": words,
        "[CLS] cosine": first,
        "mean cosine": mean,
        f"BM25 + mean cosine, {share}": weighted_sum(words, mean, weight),
        "trained, mean cosine": trained,
        "BM25 + trained, reciprocal ranks": reciprocal_ranks(words, trained),
        f"BM25 + trained, {share}": weighted_sum(words, trained, weight),
    }
    print_table(rows, test)
    return 0


if __name__ == "__main__":
    raise SystemExit(common.run(main))
