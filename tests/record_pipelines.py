"""Record the outputs of the pipelines of transformers 4.47.1, which the tests compare with.

python tests/checkpoints.py DIR
python -m venv old && old/bin/pip install transformers==4.47.1 torch sentencepiece protobuf
old/bin/python tests/record_pipelines.py DIR > tests/expected/pipelines.json
"""

import ast
import json
import sys
from pathlib import Path

import transformers
from transformers import pipeline

FOLDER, ROOT = Path(sys.argv[1]), Path(__file__).parent.parent


def constants(script: str) -> dict[str, object]:
    """Read a script's constants without importing it, because it needs transformers 5."""
    tree = ast.parse((ROOT / f"{script}.py").read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            try:
                found[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
            except ValueError:  # not a literal
                continue
    return found


task04, task06, task07, task12 = map(constants, ("task04", "task06", "task07", "task12"))
summarizer = pipeline("summarization", model=str(FOLDER / task04["MODEL"]))
bulgarian = pipeline("translation", model=str(FOLDER / task06["MODEL"]))
english = pipeline("translation", model=str(FOLDER / task12["MODEL"]))
reader = pipeline("question-answering", model=str(FOLDER / task07["EXTRACTIVE_MODEL"]))
long_context = " ".join([task04["LONG_TEXT"], task07["CONTEXT"]] * 3)  # several windows
records = {
    "version": transformers.__version__,
    "summary": summarizer(task04["LONG_TEXT"], max_length=task04["MAX_LENGTH"])[0]["summary_text"],
    "bulgarian": bulgarian(task06["SPANISH_TEXT"])[0]["translation_text"],
    "english": [r["translation_text"] for r in english(task12["INPUT_SENTENCES_2"])],
    "answer": reader(question=task07["QUESTION"], context=task07["CONTEXT"]),
    "answer in a long context": reader(question=task07["QUESTION"], context=long_context),
}
print(json.dumps(records, indent=2, ensure_ascii=False))
