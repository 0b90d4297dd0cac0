"""Data sets of exercises 3.1 to 3.3: from a folder, from the Hub, or docstrings of libraries."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import os
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple, TypeVar

import common

import numpy as np
import pandas as pd
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

T = TypeVar("T")
SPLITS = ("train", "validation", "test")

# --- 1. Folder, Hub, or docstrings --------------------------------------------------------------

PARQUET = "refs/convert/parquet"  # the branch where the Hub keeps a copy of each data set


class HubDataset(NamedTuple):
    """A data set on the Hugging Face Hub."""

    name: str
    megabytes: int  # of the download
    config: str = "default"


def hub_table(dataset: HubDataset, split: str) -> pd.DataFrame:
    """Load a split of a data set from the Hub's cache, downloading it if necessary.

    Raises `ScriptError` if it is neither in the cache nor available from the Hub.
    """
    pattern = f"{dataset.config}/{split}/*.parquet"
    options = {"repo_type": "dataset", "revision": PARQUET, "allow_patterns": pattern}
    files: list[Path] = []
    with contextlib.suppress(LocalEntryNotFoundError):
        folder = snapshot_download(dataset.name, local_files_only=True, **options)
        files = sorted(Path(folder).glob(pattern))
    if not files:
        try:
            with common.hub_errors(f"datasets/{dataset.name}") as page:
                files = sorted(Path(snapshot_download(dataset.name, **options)).glob(pattern))
                if not files:
                    raise common.ScriptError(f"{page} has no files {pattern}")
        except common.ScriptError as error:
            raise common.ScriptError(
                f"{error}; the data set {dataset.name} ({dataset.megabytes} MB) is not on this "
                "machine. Run again with a network, or name the folder of a copy with --data DIR"
            ) from error
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def read_jsonl(path: Path, **types: type) -> dict[int, dict[str, Any]]:
    """Read a file with one JSON object per line, each with these keys and types of values.

    Returns the objects by their line numbers, from 1. Blank lines are skipped. Raises
    `ScriptError` naming file and line of the first error.
    """
    names = {str: "a string", int: "an integer", list: "a list"}
    rows = {}
    lines = common.read_text(path).split("\n")  # str.splitlines would also split at U+2028
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # fails for half of a surrogate pair
        except (ValueError, RecursionError) as error:
            raise common.ScriptError(f"{path}: line {number} is not JSON ({error})") from error
        for key, kind in types.items():
            if not isinstance(row, dict) or type(row.get(key)) is not kind:
                problem = f"{key!r} must be {names[kind]}"
                raise common.ScriptError(f"{path}: line {number}: {problem}")
        rows[number] = row
    if not rows:
        raise common.ScriptError(f"{path}: the file is empty")
    return rows


def split_files(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the file of each split in a folder, where only that for validation may be missing."""
    common.check_folder(folder, f"train{suffix}", f"test{suffix}")
    paths = {name: folder / f"{name}{suffix}" for name in SPLITS}
    return {name: path for name, path in paths.items() if os.path.lexists(path)}  # or a broken link


def load_or_docstrings(
    arguments: argparse.Namespace, default: str, load: Callable[[str, Path | None], T]
) -> tuple[str, T]:
    """Return the name of a data set and the result of `load(name, folder)`.

    The name is that of --dataset. Without that option it is empty if --data names a folder, else
    `default`. If the default cannot be loaded, the name is "docstrings", with a note on standard
    error. Raises `ScriptError` if the options name two sources.
    """
    copied = {*CLASSIFICATION, *MULTIPLE_CHOICE, "scifact", None}  # a folder may have a copy
    if arguments.data and arguments.dataset not in copied:
        raise common.ScriptError(
            f"--dataset {arguments.dataset} and --data {arguments.data} are two sources of data; "
            "leave out one of them"
        )
    if arguments.dataset or arguments.data:
        name = arguments.dataset or ""
        return name, load(name, arguments.data)
    try:
        return default, load(default, None)
    except common.ScriptError as error:
        common.note(f"{error}. Using the docstrings of installed libraries instead")
        return "docstrings", load("docstrings", None)


# --- 2. Docstrings of installed libraries -------------------------------------------------------

# Modules and classes of installed libraries. Their docstrings are the embedded data set.
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


class Docstring(NamedTuple):
    """The docstring of a function, a class or a method."""

    library: str
    module: str
    group: str  # equal for docstrings that may be copies of each other
    summary: str  # the first paragraph
    description: str  # the paragraphs between the summary and the list of parameters


def load_docstrings() -> list[Docstring]:
    """Return the docstrings of the installed libraries, in a fixed order.

    Nothing but imports is executed. The names of the libraries are replaced by "library".
    Functions of the same name, such as `numpy.fft.fft` and `torch.fft.fft`, are one group, because
    one description is often a copy of the other.
    """
    docstrings, seen = [], set()
    for library, modules in DOCUMENTED.items():
        for module in modules:
            title = f"{library}.{module}".rstrip(".")
            parent, _, last = title.rpartition(".")
            is_class = last[0].isupper()
            owner = importlib.import_module(parent if is_class else title)
            owner = getattr(owner, last) if is_class else owner
            for name in sorted(vars(owner)):
                member = getattr(owner, name)
                if name.startswith("_") or not callable(member):
                    continue
                summary, description = split_docstring(inspect.getdoc(member) or "")
                if len(description) >= SHORTEST and summary not in seen:
                    seen.add(summary)
                    docstrings.append(Docstring(library, title, name.lower(), summary, description))
    return docstrings


def split_docstrings(by: str) -> dict[str, list[Docstring]]:
    """Return the docstrings of `load_docstrings` in training, validation and test sets.

    `by` is "group" or "module"; docstrings that are equal in it are in the same set.
    """
    splits: dict[str, list[Docstring]] = {"train": [], "validation": [], "test": []}
    for docstring in load_docstrings():
        part = zlib.crc32(getattr(docstring, by).encode()) % 10  # the same on every machine
        splits["test" if part < 2 else "validation" if part < 4 else "train"].append(docstring)
    return splits


def split_docstring(text: str) -> tuple[str, str]:
    """Return the summary of a docstring and its description, without signatures and markup."""
    text = re.split(SECTION, text, maxsplit=1)[0]
    text = re.sub(r"\A(?:[\w.]+\(.*\n+)+|\.\. .*|:\w+:|[`*]|>>>.*", "", text)  # signatures, markup
    text = re.sub(LIBRARY_NAMES, "library", text, flags=re.IGNORECASE)
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    return paragraphs[0], " ".join(paragraphs[1:])


# --- 3. Labelled texts, of exercise 3.1 ---------------------------------------------------------

CLASSIFICATION = {
    "emotion": HubDataset("dair-ai/emotion", 2, config="split"),
    "ag_news": HubDataset("fancyzhx/ag_news", 20),
}
LABELS = {  # the names of the labels 0, 1, 2, …
    "emotion": ("sadness", "joy", "love", "anger", "fear", "surprise"),
    "ag_news": ("World", "Sports", "Business", "Sci/Tech"),
}
HELD_OUT = 0.1  # fraction of the training texts for a split that the data set does not have


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file with the columns text and label, both as text.

    Raises `ScriptError` naming file and row if a column, a text or a label is missing.
    """
    table = common.read_csv(path)
    for column in ("label", "text"):
        if column not in table:
            columns = ", ".join(map(str, table.columns))[:60]
            raise common.ScriptError(f"{path}: row 1: no column {column} among {columns}")
    if table.empty:
        raise common.ScriptError(f"{path}: the file has no rows of data")
    for column in ("text", "label"):
        if (is_empty := table[column].str.strip() == "").any():
            row = int(is_empty.argmax()) + 2
            raise common.ScriptError(f"{path}: row {row}: {column} is empty; every row needs one")
    return table[["text", "label"]].assign(label=table["label"].str.split().str.join(" "))


def load_labelled_texts(dataset: str, folder: Path | None) -> dict[str, pd.DataFrame]:
    """Return the texts and labels of each split, from a folder, the Hub or one CSV file.

    Only the split "train" is always there.
    """
    if folder is not None:
        return {name: read_table(path) for name, path in split_files(folder, ".csv").items()}
    if dataset == "docstrings":
        return {
            name: pd.DataFrame(
                [(f"{row.summary} {row.description}", row.library) for row in rows],
                columns=["text", "label"],
            )
            for name, rows in split_docstrings(by="group").items()
        }
    if dataset in CLASSIFICATION:
        names = SPLITS if dataset == "emotion" else ("train", "test")
        splits = {name: hub_table(CLASSIFICATION[dataset], name) for name in names}
        return {name: table.astype({"label": str}) for name, table in splits.items()}
    if Path(dataset).suffix.lower() == ".csv":
        return {"train": read_table(Path(dataset))}
    known = ", ".join((*CLASSIFICATION, "docstrings"))
    raise common.ScriptError(f"{dataset}: --dataset takes {known} or a CSV file")


def hold_out_texts(splits: dict[str, pd.DataFrame], seed: int) -> dict[str, pd.DataFrame]:
    """Split off a tenth of the training texts for a missing test split, then for validation."""
    splits = dict(splits)
    generator = np.random.default_rng(seed)
    for name in ("test", "validation"):
        if name not in splits:
            order = generator.permutation(len(splits["train"]))
            labels = splits["train"]["label"].iloc[order]
            is_last = ~labels.duplicated(keep="last").to_numpy()  # one text of each label stays
            held_out = order[~is_last][: round(HELD_OUT * len(order))]
            splits[name] = splits["train"].iloc[np.sort(held_out)]
            splits["train"] = splits["train"].drop(splits[name].index)
    return {name: splits[name].reset_index(drop=True) for name in SPLITS}


def sample_rows(table: pd.DataFrame, size: int, seed: int) -> pd.DataFrame:
    """Return random rows of a table, in their order, with all labels at about their frequencies.

    There are `size` rows, or one of each label if that is more.
    """
    if len(table) <= size:
        return table
    shuffled = table.sample(frac=1, random_state=seed)
    groups = shuffled.groupby("label")["label"]
    position = groups.cumcount() / groups.transform("size")  # within the label, from 0 to 1
    order = position.sort_values(kind="stable").index
    return table.loc[order[: max(size, groups.ngroups)]].sort_index()


def encode_labels(
    splits: dict[str, pd.DataFrame], names: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the labels of each split as numbers from 0, and their names.

    The labels "0", "1", … get these `names`, if there are as many. Other labels name themselves.
    Raises `ScriptError` if a split is empty, if there are fewer than two labels, or if there is a
    label without training texts.
    """
    if empty := [name for name, table in splits.items() if table.empty]:
        raise common.ScriptError(f"too few texts: none is left for {' and '.join(empty)}")
    labels = sorted(set(splits["train"]["label"]), key=lambda label: (len(label), label))
    if len(labels) < 2:
        raise common.ScriptError(f"the training texts have {len(labels)} label; two are needed")
    numbers = {}
    for name, table in splits.items():
        if unknown := set(table["label"]) - set(labels):
            message = f"no training text has the label {min(unknown)!r} of the {name} texts"
            raise common.ScriptError(message)
        numbers[name] = np.array([labels.index(label) for label in table["label"]])
    has_names = labels == [str(number) for number in range(len(names))]
    return numbers, list(names) if has_names else labels


# --- 4. Questions, of exercise 3.2 --------------------------------------------------------------

MULTIPLE_CHOICE = {
    "openbookqa": HubDataset("allenai/openbookqa", 1, config="main"),
    "commonsense_qa": HubDataset("tau/commonsense_qa", 2),
    "swag": HubDataset("allenai/swag", 40, config="regular"),
}
EXAMPLE = '{"question": "Ice is", "choices": ["cold", "hot"], "answer": 0}'
DISTRACTORS = 3  # wrong choices of a question about a docstring


@dataclass
class Question:
    """A question, two or more choices, and the index of the right one."""

    text: str
    choices: list[str]
    answer: int


def parse_question(row: dict[str, Any]) -> Question:
    """Return the question in a row of a data set.

    `choices` are texts, and `answer` is an index from 0 or a letter. ARC and CommonsenseQA label
    the choices instead, and RACE has an article before the question. Raises `LookupError`,
    `TypeError` or `ValueError` for any other form.
    """
    text = row["question_stem"] if "question_stem" in row else row["question"]  # of OpenBookQA
    if isinstance(text, dict):  # ARC's own files: {"stem": …, "choices": …}
        row, text = row | text, text["stem"]
    choices = row["options"] if "options" in row else row["choices"]
    answer = row["answerKey"] if "answerKey" in row else row["answer"]
    labels: Any = ascii_uppercase if isinstance(answer, str) else range(len(choices))
    if isinstance(choices, dict):  # the Hub's form of ARC
        labels, choices = choices["label"], choices["text"]
    elif isinstance(choices[0], dict):
        labels, choices = zip(*((each["label"], each["text"]) for each in choices), strict=True)
    labels = list(map(str, labels))[: len(choices)]
    if isinstance(choices, str) or not all(isinstance(each, str) for each in [text, *choices]):
        raise TypeError("the question and each of the choices must be a string")
    if len(choices) < 2:
        raise ValueError("choices has fewer than two items")
    if labels.count(str(answer)) != 1:
        raise ValueError(f"answer is {answer!r}; it must be one of {', '.join(labels)}")
    text, position = f"{row.get('article', '')} {text}".strip(), labels.index(str(answer))
    return Question(text, list(choices), position)


def read_questions(path: Path) -> list[Question]:
    """Read a file with one question per line, as JSON: see `parse_question`.

    Raises `ScriptError` naming file and line of the first error.
    """
    questions = []
    for number, row in read_jsonl(path).items():
        try:
            questions.append(parse_question(row))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            problem = f"no {error}" if isinstance(error, KeyError) else common.first_line(error)
            message = f"line {number}: {problem}; a line looks like {EXAMPLE}"
            raise common.ScriptError(f"{path}: {message}") from error
    return questions


def from_swag(row: dict[str, Any]) -> Question:
    """Return the question in a row of SWAG: which of four endings completes the scene."""
    choices = [row[f"ending{number}"] for number in range(4)]
    return Question(f"{row['sent1']} {row['sent2']}", choices, int(row["label"]))


def make_questions(docstrings: list[Docstring], seed: int) -> list[Question]:
    """Ask for each description which of four summaries of its module belongs to it."""
    modules: dict[str, list[str]] = {}
    for docstring in docstrings:
        modules.setdefault(docstring.module, []).append(docstring.summary)
    generator = np.random.default_rng(seed)
    questions = []
    for docstring in docstrings:
        others = [each for each in modules[docstring.module] if each != docstring.summary]
        if len(others) >= DISTRACTORS:
            wrong = generator.choice(others, DISTRACTORS, replace=False).tolist()
            questions.append(Question(docstring.description, [docstring.summary, *wrong], 0))
    return questions


def load_questions(dataset: str, folder: Path | None) -> dict[str, list[Question]]:
    """Read the training, test and, if there are any, validation questions.

    They come from a folder, or else from the Hub. If the answers of a test set are not public, its
    validation questions are the test questions.
    """
    if folder is not None:
        return {name: read_questions(path) for name, path in split_files(folder, ".jsonl").items()}
    if dataset == "docstrings":
        docstrings = split_docstrings(by="group")
        return {name: make_questions(rows, seed=0) for name, rows in docstrings.items()}
    splits = {}
    # commonsense_qa and swag publish no answers for their test sets
    for name in SPLITS if dataset == "openbookqa" else ("train", "validation"):
        table = hub_table(MULTIPLE_CHOICE[dataset], name)
        convert = from_swag if dataset == "swag" else parse_question
        splits[name] = [convert(row) for row in table.to_dict("records")]
    return splits if "test" in splits else {"train": splits["train"], "test": splits["validation"]}


# --- 5. Collections, of exercise 3.3 ------------------------------------------------------------

COLLECTION = HubDataset("BeIR/scifact", 5, config="corpus")
CLAIMS = HubDataset("BeIR/scifact", 5, config="queries")
JUDGEMENTS = HubDataset("BeIR/scifact-qrels", 1)
FILES = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv")
QREL_COLUMNS = ["query-id", "corpus-id", "score"]


class Qrels(NamedTuple):
    """The relevance judgements of a split."""

    claims: list[int]  # the indices of the judged claims
    relevance: np.ndarray  # (judged claims, documents); 0 is not relevant

    def part(self, rows: np.ndarray) -> Qrels:
        """Return the judgements of some of the claims."""
        return Qrels([self.claims[row] for row in rows], self.relevance[rows])


@dataclass
class Collection:
    """Documents, claims, and which documents are relevant to which claims."""

    titles: list[str]
    abstracts: list[str]
    claims: list[str]
    qrels: dict[str, Qrels]  # of the splits `train` and `test`

    def documents(self) -> list[str]:
        """Return the text of each document, starting with its title."""
        pairs = zip(self.titles, self.abstracts, strict=True)
        return [f"{title} {abstract}".strip() for title, abstract in pairs]


def read_qrels(
    table: pd.DataFrame, source: object, claims: dict[str, int], documents: dict[str, int]
) -> Qrels:
    """Return the judgements in a table; `claims` and `documents` map ids to indices.

    A score above 0 means relevant. Judgements of unknown claims or documents are skipped, with a
    note. Raises `ScriptError` naming source and row of the first error.
    """
    if list(table.columns) != QREL_COLUMNS:
        columns, expected = (", ".join(each)[:60] for each in (table.columns, QREL_COLUMNS))
        raise common.ScriptError(f"{source}: row 1: the columns are {columns!r}, not {expected!r}")
    judged: dict[tuple[str, str], int] = {}
    for row, (claim, document, score) in enumerate(table.itertuples(index=False), start=2):
        if not re.fullmatch(r"-?\d{1,9}(\.0*)?", str(score)):
            raise common.ScriptError(f"{source}: row {row}: score {score!r} is not an integer")
        if judged.setdefault((claim, document), int(float(score))) != int(float(score)):
            message = f"claim {claim!r} and document {document!r} have two different scores"
            raise common.ScriptError(f"{source}: row {row}: {message}")
    known = {pair: n for pair, n in judged.items() if pair[0] in claims and pair[1] in documents}
    if skipped := len(judged) - len(known):
        common.note(f"{source}: {skipped} judgements of unknown claims or documents are skipped")
    relevant: dict[int, dict[int, int]] = {}
    for (claim, document), score in known.items():
        if score > 0:
            relevant.setdefault(claims[claim], {})[documents[document]] = score
    if not relevant:
        raise common.ScriptError(f"{source}: no document is relevant to any claim")
    relevance: np.ndarray = np.zeros((len(relevant), len(documents)), dtype=np.float32)
    for row, scores in enumerate(relevant.values()):
        relevance[row, list(scores)] = list(scores.values())
    return Qrels(list(relevant), relevance)


def read_texts(path: Path) -> list[dict]:
    """Read the documents or the claims of a collection.

    Raises `ScriptError` naming file and line of the first error, such as a repeated id.
    """
    lines: dict[str, int] = {}
    rows = read_jsonl(path, _id=str, text=str)
    for number, row in rows.items():
        first = lines.setdefault(row["_id"], number)
        if first != number:
            message = f"the id {row['_id']!r} is also in line {first}"
            raise common.ScriptError(f"{path}: line {number}: {message}")
    return list(rows.values())


def read_tables(
    dataset: str, folder: Path | None
) -> tuple[list[dict], list[dict], Sequence[tuple[object, pd.DataFrame]]]:
    """Return documents, claims, and the judgements for training and testing with their sources.

    A folder has BEIR's form. The claims of "docstrings" are the summaries of functions, and the
    documents are their descriptions. Training and test claims are about different modules.
    """
    if folder is not None:
        common.check_folder(folder, *FILES)
        documents, claims = (read_texts(folder / f"{n}.jsonl") for n in ("corpus", "queries"))
        paths = [folder / "qrels" / f"{split}.tsv" for split in ("train", "test")]
        return documents, claims, [(path, common.read_csv(path)) for path in paths]
    if dataset == "docstrings":
        splits = split_docstrings(by="module")
        rows = [*splits["train"], *splits["validation"], *splits["test"]]
        documents = [{"_id": str(i), "text": row.description} for i, row in enumerate(rows)]
        claims = [{"_id": str(i), "text": row.summary} for i, row in enumerate(rows)]
        pairs = [(str(i), str(i), "1") for i in range(len(rows))]  # each summary has one document
        judgements = pd.DataFrame(pairs, columns=QREL_COLUMNS)
        cut = len(rows) - len(splits["test"])
        return documents, claims, [(dataset, judgements[:cut]), (dataset, judgements[cut:])]
    documents = hub_table(COLLECTION, "corpus").to_dict("records")
    claims = hub_table(CLAIMS, "queries").to_dict("records")
    tables = [
        (f"{JUDGEMENTS.name}: {split}", hub_table(JUDGEMENTS, split).astype(str))
        for split in ("train", "test")
    ]
    return documents, claims, tables


def load_collection(dataset: str, folder: Path | None) -> Collection:
    """Return a collection from a folder, or one by its name: see `read_tables`."""
    documents, claims, tables = read_tables(dataset, folder)
    if len(documents) < 2:
        raise common.ScriptError("there is only one document; a ranking needs two")
    indices = [{row["_id"]: i for i, row in enumerate(rows)} for rows in (claims, documents)]
    qrels = {
        split: read_qrels(table, source, *indices)
        for split, (source, table) in zip(("train", "test"), tables, strict=True)
    }
    titles = [str(row.get("title") or "") for row in documents]  # not every collection has them
    abstracts = [row["text"] for row in documents]
    return Collection(titles, abstracts, [row["text"] for row in claims], qrels)
