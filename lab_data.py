"""Data sets of exercises 3.1 to 3.3: from files, from the Hub, or docstrings of libraries."""

import argparse
import inspect
import json
import pydoc
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder

import common

T = TypeVar("T")
SPLITS = ("train", "validation", "test")

# --- 1. Files, the Hub, or docstrings ------------------------------------------------------------

PARQUET = "refs/convert/parquet"  # the branch where the Hub keeps a copy of each data set


def hub_table(repository: str, folder: str) -> pd.DataFrame:
    """Load the Parquet files in a folder of a data set on the Hub, such as "split/train".

    They are downloaded once. Raises `ScriptError` if the Hub cannot be reached.
    """
    pattern = f"{folder}/*.parquet"
    copy = common.fetch_from_hub(repository, [pattern], repo_type="dataset", revision=PARQUET)
    return pd.concat(map(pd.read_parquet, sorted(copy.glob(pattern))), ignore_index=True)


def split_files(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the file of each split in a folder; the validation file is optional."""
    common.check_folder(folder, f"train{suffix}", f"test{suffix}")
    paths = {name: folder / f"{name}{suffix}" for name in SPLITS}
    return {name: path for name, path in paths.items() if path.exists()}


def read_jsonl(path: Path, parse: Callable[[dict[str, Any]], T]) -> list[T]:
    """Return `parse` of the JSON object in each line of a file. Blank lines are skipped.

    Raises `ScriptError` naming file and line of the first error.
    """
    rows = []
    lines = common.read_text(path).split("\n")  # str.splitlines would also split at U+2028
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with common.errors_in(f"{path}: line {number}"):
                rows.append(parse(json.loads(line)))
    if not rows:
        raise common.ScriptError(f"{path}: the file is empty")
    return rows


def load_or_docstrings(
    arguments: argparse.Namespace, default: str, load: Callable[[str, Path | None], T]
) -> tuple[str, T]:
    """Return the name of a data set and the result of `load(name, path)`.

    The name is that of --dataset. Without that option it is empty if --data names a path, else
    `default`. If the default cannot be loaded, the name is "docstrings", with a note on standard
    error. Raises `ScriptError` if the options name two sources.
    """
    path = arguments.data
    if path and arguments.dataset == "docstrings":
        raise common.ScriptError("--dataset docstrings reads no --data; leave out one of them")
    name = arguments.dataset or ("" if path else default)
    try:
        with common.errors_in(path or name):  # a file in the Hub's cache may have other columns
            return name, load(name, path)
    except common.ScriptError as error:
        if path or arguments.dataset:
            raise
        common.note(f"{error}. The docstrings of installed libraries replace {default}")
        return "docstrings", load("docstrings", None)


def remove_duplicates(splits: dict[str, list[T]], text: Callable[[T], str]) -> dict[str, list[T]]:
    """Return the splits without rows whose text is also in a later split; print how many.

    `text` returns the text of a row. Texts that differ only in case or whitespace are equal. A
    model that has seen a test text in training would look better than it is. Raises `ScriptError`
    if a split is empty afterwards.
    """
    kept = dict(splits)
    later: set[str] = set()  # texts of the later splits
    for name in sorted(splits, key=SPLITS.index, reverse=True):
        keys = [" ".join(text(row).lower().split()) for row in splits[name]]
        kept[name] = [row for row, key in zip(splits[name], keys, strict=True) if key not in later]
        if not kept[name]:
            raise common.ScriptError(f"too few texts: none is left for the split {name}")
        later.update(keys)
    counts = (f"{len(splits[n]) - len(kept[n])} {n}" for n in SPLITS[:-1] if n in splits)
    print(f"left out, because a later split has the same text: {', '.join(counts)}")
    return kept


# --- 2. Labelled texts, of exercise 3.1 ----------------------------------------------------------

LABELS = {  # of the data sets on the Hub: the names of the labels 0, 1, 2, …
    "emotion": ("sadness", "joy", "love", "anger", "fear", "surprise"),
    "ag_news": ("World", "Sports", "Business", "Sci/Tech"),
}
HELD_OUT = 0.1  # fraction of the training texts for a split that the data set does not have


class LabelledText(NamedTuple):
    """A text and its label."""

    text: str
    label: str


def read_labelled_texts(path: Path) -> list[LabelledText]:
    """Read a CSV file with the columns text and label.

    Raises `ScriptError` naming file and row if a column, a text or a label is missing.
    """
    table = common.read_csv(path)
    with common.errors_in(f"{path}: the columns must be text and label"):
        table = table[["text", "label"]]
    rows = []
    for number, (text, label) in enumerate(table.itertuples(index=False), start=2):
        rows.append(LabelledText(text.strip(), " ".join(label.split())))
        if not all(rows[-1]):
            raise common.ScriptError(f"{path}: row {number}: the text or the label is empty")
    return rows


def load_labelled_texts(dataset: str, path: Path | None) -> dict[str, list[LabelledText]]:
    """Return the labelled texts of each split, from a folder, one CSV file, the Hub or docstrings.

    Only the split "train" is always there.
    """
    if path is not None:
        files = {"train": path} if path.is_file() else split_files(path, ".csv")
        return {name: read_labelled_texts(file) for name, file in files.items()}
    if dataset == "docstrings":
        return {  # the label is the library
            name: [LabelledText(f"{row.summary} {row.description}", row.library) for row in rows]
            for name, rows in split_docstrings(by="group").items()
        }
    if dataset == "emotion":
        tables = {name: hub_table("dair-ai/emotion", f"split/{name}") for name in SPLITS}
    else:
        names = ("train", "test")
        tables = {name: hub_table("fancyzhx/ag_news", f"default/{name}") for name in names}
    return {
        name: [LabelledText(row.text, str(row.label)) for row in table.itertuples()]
        for name, table in tables.items()
    }


def stratified_split(
    rows: list[LabelledText], size: int | float, seed: int
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Return the other rows and `size` random rows, or that fraction, stratified by label."""
    labels = [row.label for row in rows]
    return train_test_split(rows, test_size=size, stratify=labels, random_state=seed)


def prepare_texts(
    splits: dict[str, list[LabelledText]], max_texts: int, seed: int
) -> dict[str, list[LabelledText]]:
    """Return three splits of at most `max_texts` texts, none of which is in two splits.

    For a missing test split, a tenth of the training texts is split off, then for validation.
    """
    splits = dict(splits)
    with common.errors_in("too few texts to draw some of every label"):
        for name in ("test", "validation"):
            if name not in splits:
                splits["train"], splits[name] = stratified_split(splits["train"], HELD_OUT, seed)
        splits = {name: splits[name] for name in SPLITS}
        splits = remove_duplicates(splits, text=lambda row: row.text)
        for name, rows in splits.items():
            labels = {row.label for row in rows}
            if len(rows) - max_texts >= len(labels):  # scikit-learn cannot leave out fewer
                splits[name] = stratified_split(rows, max_texts, seed)[1]
    return splits


def encode_labels(
    splits: dict[str, list[LabelledText]], names: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the labels of each split as numbers from 0, and their names.

    The labels "0", "1", … get these `names`, if there are as many. Other labels name themselves.
    Raises `ScriptError` if a label has no training texts.
    """
    encoder = LabelEncoder().fit([row.label for row in splits["train"]])
    numbers = {}
    for name, rows in splits.items():
        with common.errors_in(f"no training text has a label of the {name} texts"):
            numbers[name] = encoder.transform([row.label for row in rows])
    labels = encoder.classes_.tolist()
    has_names = labels == [str(number) for number in range(len(names))]
    return numbers, list(names) if has_names else labels


# --- 3. Questions, of exercise 3.2 ---------------------------------------------------------------


@dataclass
class Question:
    """A question, two or more choices, and the index of the right one."""

    text: str
    choices: list[str]
    answer: int


def parse_question(row: dict[str, Any]) -> Question:
    """Return the question in {"question": "Ice is", "choices": ["cold", "hot"], "answer": 0}.

    The answer is an index from 0 or a letter. A row of OpenBookQA has other keys. Raises an error
    if the row has another form.
    """
    if "question_stem" in row:  # OpenBookQA
        text, answer = row["question_stem"], row["answerKey"]
        choices, labels = list(row["choices"]["text"]), list(row["choices"]["label"])
    else:
        text, choices, answer = row["question"], row["choices"], row["answer"]
        labels = list(ascii_uppercase if isinstance(answer, str) else range(len(choices)))
    is_list = isinstance(choices, list) and len(choices) > 1
    if not is_list or not all(isinstance(item, str) for item in (text, *choices)):
        raise ValueError("the question must be a string, and the choices a list of two or more")
    names = [str(label) for label in labels[: len(choices)]]  # so that true is not the index 1
    return Question(text, choices, names.index(str(answer)))


def load_questions(dataset: str, folder: Path | None) -> dict[str, list[Question]]:
    """Return the questions of each split from a folder, the Hub or docstrings.

    A folder may have no validation questions.
    """
    if folder is not None:
        files = split_files(folder, ".jsonl")
        return {name: read_jsonl(path, parse_question) for name, path in files.items()}
    if dataset == "docstrings":
        return docstring_questions()
    tables = {name: hub_table("allenai/openbookqa", f"main/{name}") for name in SPLITS}
    return {
        name: [parse_question(row) for row in table.to_dict("records")]
        for name, table in tables.items()
    }


# --- 4. Collections, of exercise 3.3 -------------------------------------------------------------

FILES = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv")
JUDGEMENT = ["query-id", "corpus-id", "score"]  # the columns of a file in qrels/


class Claim(NamedTuple):
    """A claim, and the documents that are relevant to it."""

    text: str
    relevant: dict[int, int]  # the index of each relevant document, and its grade, 1 or more
    is_new: bool = False  # whether it is a test claim about documents that no training claim cites


@dataclass
class Collection:
    """Documents, and claims about them."""

    titles: list[str]
    abstracts: list[str]
    claims: dict[str, list[Claim]]  # of the splits train and test

    def documents(self) -> list[str]:
        """Return the text of each document, starting with its title."""
        pairs = zip(self.titles, self.abstracts, strict=True)
        return [f"{title} {abstract}".strip() for title, abstract in pairs]


def parse_text(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return the id, the title and the text of a document or a claim in BEIR's form."""
    fields = row["_id"], row.get("title") or "", row["text"]  # claims have no title
    if not all(isinstance(field, str) for field in fields):
        raise TypeError("the _id, the title and the text must be strings")
    return fields


def index_texts(rows: list[tuple[str, str, str]], source: str) -> pd.DataFrame:
    """Return documents or claims by their ids. Raises `ScriptError` if two have the same id."""
    frame = pd.DataFrame(rows, columns=["_id", "title", "text"]).set_index("_id")
    for key in frame.index[frame.index.duplicated()]:
        raise common.ScriptError(f"{source}: two rows have the _id {key!r}; remove one")
    return frame


def read_judgements(
    table: pd.DataFrame, source: str, queries: pd.DataFrame, corpus: pd.DataFrame
) -> list[Claim]:
    """Return the claims to which a table of judgements assigns a relevant document.

    The ids of claims and documents are the index of `queries` and `corpus`. A score is a grade;
    above 0 it means relevant. Judgements of unknown ids are skipped, with a note. Raises
    `ScriptError` if a score is not an integer, or if no document is relevant.
    """
    with common.errors_in(f"{source}: the columns must be {', '.join(JUDGEMENT)}, an integer"):
        table = table[JUDGEMENT].astype({"score": int})
    known = table[table["query-id"].isin(queries.index) & table["corpus-id"].isin(corpus.index)]
    if skipped := len(table) - len(known):
        common.note(f"{source}: {skipped} judgements of unknown claims or documents are skipped")
    relevant: dict[str, dict[int, int]] = {}
    for claim, document, grade in known[known["score"] > 0].itertuples(index=False):
        relevant.setdefault(claim, {})[corpus.index.get_loc(document)] = grade
    if not relevant:
        raise common.ScriptError(f"{source}: no document is relevant to any claim")
    return [Claim(queries.at[claim, "text"], grades) for claim, grades in relevant.items()]


def load_collection(dataset: str, folder: Path | None) -> Collection:
    """Return a collection from a folder in BEIR's form, or one by its name."""
    if folder is None and dataset == "docstrings":
        return docstring_collection()
    if folder is not None:
        common.check_folder(folder, *FILES)
        texts = [read_jsonl(folder / name, parse_text) for name in FILES[:2]]
        tables = [common.read_csv(folder / name) for name in FILES[2:]]
    else:
        names = ("corpus/corpus", "queries/queries")
        rows = [hub_table("BeIR/scifact", name).to_dict("records") for name in names]
        texts = [list(map(parse_text, part)) for part in rows]
        names = ("default/train", "default/test")
        tables = [hub_table("BeIR/scifact-qrels", name).astype(str) for name in names]
    sources = [str((folder or Path(dataset)) / name) for name in FILES]
    corpus, queries = map(index_texts, texts, sources[:2])
    claims = {
        split: read_judgements(table, source, queries, corpus)
        for split, table, source in zip(("train", "test"), tables, sources[2:], strict=True)
    }
    return Collection(corpus["title"].tolist(), corpus["text"].tolist(), claims)


# --- 5. Docstrings of installed libraries --------------------------------------------------------

# Modules and classes of installed libraries. Their docstrings are a data set that needs no network.
DOCUMENTED = {
    "numpy": ["", "fft", "linalg", "ma", "polynomial", "random", "strings"],
    "scipy": [
        *("cluster.hierarchy", "fft", "integrate", "interpolate", "linalg", "ndimage", "optimize"),
        *("signal", "sparse", "sparse.csgraph", "sparse.linalg", "spatial", "spatial.distance"),
        *("special", "stats"),
    ],
    "pandas": ["", "DataFrame", "Series", "Index", "DatetimeIndex", "Timestamp"],
    "sklearn": [
        *("cluster", "covariance", "datasets", "decomposition", "ensemble", "feature_extraction"),
        *("feature_selection", "linear_model", "manifold", "metrics", "metrics.pairwise"),
        *("model_selection", "naive_bayes", "neighbors", "preprocessing", "svm", "tree", "utils"),
    ],
    "torch": [
        *("", "distributions", "fft", "linalg", "nn", "nn.functional", "nn.init", "optim"),
        *("optim.lr_scheduler", "special", "utils.data"),
    ],
}
LIBRARY_NAMES = r"\b(numpy|np|scipy|pandas|pd|scikit-learn|sklearn|(?:py)?torch)\b"
# The first section after the description, such as "Parameters" above a line of dashes, or "Args:"
SECTION = r"\n(?=[A-Z][\w ]*\n---|(?:Args|Arguments|Shape|Returns|Examples?)::?)"
SHORTEST = 100  # characters of a description without its summary
DISTRACTORS = 3  # wrong choices of a question about a docstring


class Docstring(NamedTuple):
    """The docstring of a function, a class or a method."""

    library: str
    module: str
    group: str  # docstrings with the same group may be copies of each other
    summary: str  # the first paragraph
    description: str  # the paragraphs between the summary and the list of parameters


def load_docstrings() -> list[Docstring]:
    """Return the docstrings of the installed libraries, in a fixed order, each summary once.

    Functions of the same name, such as `numpy.fft.fft` and `torch.fft.fft`, are one group, because
    one description is often a copy of the other.
    """
    docstrings: dict[str, Docstring] = {}  # by summary
    for library, modules in DOCUMENTED.items():
        for module in modules:
            title = f"{library}.{module}".rstrip(".")
            owner = pydoc.locate(title)
            for name in sorted(vars(owner)):
                member = getattr(owner, name)
                if callable(member) and not name.startswith("_"):
                    summary, description = split_docstring(inspect.getdoc(member) or "")
                    row = Docstring(library, title, name.lower(), summary, description)
                    if len(description) >= SHORTEST:
                        docstrings.setdefault(summary, row)
    return list(docstrings.values())


def split_docstring(text: str) -> tuple[str, str]:
    """Return the summary of a docstring and its description, without signatures and markup.

    The names of the libraries, the labels of exercise 3.1, are replaced by "library".
    """
    text = re.split(SECTION, text, maxsplit=1)[0]
    text = re.sub(r"\A(?:[\w.]+\(.*\n+)+|\.\. .*|:\w+:|[`*]|>>>.*", "", text)  # signatures, markup
    text = re.sub(LIBRARY_NAMES, "library", text, flags=re.IGNORECASE)
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    # SciPy's notes on deprecated arguments print a set, in another order each time Python starts
    description = [part for part in paragraphs[1:] if "argument(s) {" not in part]
    return paragraphs[0], " ".join(description)


def split_docstrings(by: str) -> dict[str, list[Docstring]]:
    """Return the docstrings in training, validation and test sets: six, two and two tenths.

    `by` is "group" or "module". Docstrings with the same group (or module) are in the same split.
    """
    splits: dict[str, list[Docstring]] = {name: [] for name in SPLITS}
    for docstring in load_docstrings():
        part = zlib.crc32(getattr(docstring, by).encode()) % 10  # the same on every machine
        splits["test" if part < 2 else "validation" if part < 4 else "train"].append(docstring)
    return splits


def docstring_questions() -> dict[str, list[Question]]:
    """Make a question of each description: which of four summaries of its module matches it?"""
    questions: dict[str, list[Question]] = {}
    for name, rows in split_docstrings(by="group").items():
        generator = np.random.default_rng(0)
        questions[name] = []
        for row in rows:
            others = [
                other.summary for other in rows if other.module == row.module and other != row
            ]
            if len(others) >= DISTRACTORS:
                wrong = generator.choice(others, DISTRACTORS, replace=False).tolist()
                questions[name].append(Question(row.description, [row.summary, *wrong], 0))
    return questions


def docstring_collection() -> Collection:
    """Return the descriptions as documents, and the summaries as claims about them.

    Training and test claims are about different modules.
    """
    splits = split_docstrings(by="module")
    rows = [*splits["train"], *splits["validation"], *splits["test"]]
    claims = [Claim(row.summary, {index: 1}) for index, row in enumerate(rows)]
    cut = len(rows) - len(splits["test"])
    abstracts = [row.description for row in rows]
    return Collection([""] * len(rows), abstracts, {"train": claims[:cut], "test": claims[cut:]})
