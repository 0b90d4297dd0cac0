"""inferno.py: the poem's text, n-gram baselines, and measures of copies, words, metre and rhyme."""

import hashlib
import html
import math
from pathlib import Path

import pytest

import common
import dante_gpt
import inferno
from conftest import EXPECTED, Server, only_line

POEM = 'Nel mezzo del cammin\n  <<verso & verso>>, "detto",\n\nCanto II\n\na riveder le stelle.'
ETEXT = f"LA DIVINA COMMEDIA\n\nInferno: Canto I\n\n\n{POEM}\n\n\nEnd of the etext\n"
PAGE = "<!DOCTYPE html>\n<title>Nel mezzo</title><p>Menu &amp; search</p>\n<pre class='x'>"
PAGE += f"{html.escape(ETEXT)}</pre></html>"
VERSES = inferno.clean_text(inferno.VERSES.read_text(encoding="utf-8"))


@pytest.fixture
def poem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a short poem be the edition with the published figures."""
    monkeypatch.setattr(inferno, "SHA256", hashlib.sha256(POEM.encode()).hexdigest())


@pytest.mark.usefixtures("poem")
@pytest.mark.parametrize("text", [
    POEM,
    ETEXT.replace("\n", " \t\n"),
    PAGE.replace("mezzo", "<b>mezzo</b>"),
    PAGE.replace("\n  ", "\n&nbsp; "),
])  # fmt: skip
def test_every_form_of_the_etext_gives_the_poem(text: str) -> None:
    assert inferno.clean_text(text) == POEM


@pytest.mark.parametrize("text", [
    f"Part one\n{POEM}\nPart two\n{POEM}\nPart three",  # its first and last words
    "A page starts with\n<html><pre>\nand ends with </pre>.",  # a quotation of HTML
    "10\xa0km",
])  # fmt: skip
def test_other_text_is_used_whole_with_a_note(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "song.txt"
    path.write_text(f"{text}\n", encoding="utf-8")
    assert inferno.load(path) == text
    only_line(capsys.readouterr().err, f"{path}: not the edition of the Inferno used ")


@pytest.mark.usefixtures("poem")
def test_note_says_how_much_of_a_file_is_the_inferno(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "comedy.txt"
    path.write_text(f"{POEM}\n\nPURGATORIO\n{'o' * 100}", encoding="utf-8")
    assert inferno.load(path) == POEM
    only_line(capsys.readouterr().err, f"only the Inferno is used, {len(POEM)} of")


@pytest.mark.parametrize("content", ["<pre> \r\n</pre>", "<!doctype html><p>Log in to read</p>"])
def test_file_without_text_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "song.txt").write_text(content, encoding="utf-8")
    with pytest.raises(common.ScriptError, match=r"song.txt: no text; .* without an element <pre>"):
        inferno.load(tmp_path / "song.txt")


@pytest.mark.usefixtures("poem")
@pytest.mark.parametrize(("page", "copy", "is_found"), [
    (PAGE, "", True),
    ("<pre>Log in to read on", POEM, True),
    ("", POEM.replace("verso", "versa"), False),
], ids=["page", "copy", "another text"])  # fmt: skip
def test_sources_are_tried_in_order_and_the_embedded_verses_last(
    page: str,
    copy: str,
    is_found: bool,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(inferno, "SOURCES", (f"{server.url}page", f"{server.url}copy"))
    server.files = {"page": page.encode(), "copy": copy.encode()}
    path = inferno.find()
    if is_found:
        assert inferno.load(path) == POEM
        assert inferno.find() == path  # without a second download
    else:
        assert path == inferno.VERSES
        assert not list((common.DATA / "dante").iterdir())
        only_line(capsys.readouterr().err, "verses written for this project")
    assert server.requests == (["/page", "/copy"] if copy else ["/page"])


def test_ngram_loss_worked_out_by_hand() -> None:
    # In "aab", a occurs twice and b once, and there are 2 distinct characters. Smoothed:
    p_a, p_b = (2 + 2 * 1 / 2) / (3 + 2), (1 + 2 * 1 / 2) / (3 + 2)
    assert inferno.ngram_loss("aab", "a", 1) == pytest.approx(-math.log(p_a))
    # Nothing follows "b", so the bigram falls back on p(a). "a" is followed by a once, b once:
    losses = -math.log(p_a), -math.log((1 + 2 * p_b) / (2 + 2))
    assert inferno.ngram_loss("aab", "ab", 2) == pytest.approx(sum(losses) / 2)


def test_the_inferno_has_the_recorded_figures(
    inferno_file: Path, capsys: pytest.CaptureFixture
) -> None:
    train, validation = dante_gpt.split(inferno.load(inferno_file))
    assert (len(train), len(validation), len(set(train + validation))) == (168_095, 18_678, 58)
    losses = [inferno.ngram_loss(train, validation, n) for n in dante_gpt.NGRAMS.values()]
    assert losses == pytest.approx([3.0426, 2.3245, 1.6244], abs=5e-5)
    assert inferno.hendecasyllable_fraction(train) == pytest.approx(0.73, abs=0.01)
    assert inferno.terza_rima_fraction(train) > 0.95
    inferno.print_measures(train[:5000], train, validation)  # as long as the measured sample
    out, err = capsys.readouterr()
    assert "not the edition" not in err
    only_line(err, "parts are copied: at most 5000 characters in a row, and 27 in the canto")
    only_line(err, "rhyme is learned (95%; canto 100%)")  # the sample is Dante's
    recorded = (EXPECTED / "dante_gpt.txt").read_text(encoding="utf-8").splitlines()[-6:]
    for part in (slice(40), slice(52, None)):  # the names, and the column of the held-out canto
        assert [line[part] for line in out.splitlines()] == [line[part] for line in recorded]
    assert out.splitlines()[1].split()[-2] == "5000"  # this sample is copied


def test_copies_and_words_by_hand() -> None:
    assert inferno.longest_copy("una selva scura", "per una selva oscura") == "una selva "
    source = "abcdefghijklmnopqrstuvwxyz"
    assert inferno.copied_fraction(source[:20] + "!!", source) == pytest.approx(1 / 3)
    assert inferno.copied_fraction("too short", source) == 0
    assert inferno.known_word_fraction("Che' piu` PIU' 7 vita!", "la vita, che' piu`") == 3 / 4
    assert inferno.known_word_fraction("perché è", "perche` e`") == 1
    assert inferno.known_word_fraction("la la la vita", "la") == 3 / 4  # each time it occurs


def test_terza_rima_by_hand() -> None:
    good = "vita\nscura\nsmarrita\n\ndura\nforte\npaura\n\nmorte\ntrovai\nscorte"
    assert inferno.terza_rima_fraction(good) == 1
    assert inferno.terza_rima_fraction(good.replace("forte", "verde")) == 1 / 2  # not taken up
    assert inferno.terza_rima_fraction(good.replace("smarrita", "verde")) == 1 / 2  # ABC
    assert inferno.terza_rima_fraction("...\n...\n...\n\n...\n...\n...") == 0  # no rhyme at all
    assert inferno.terza_rima_fraction(VERSES) == 1


@pytest.mark.parametrize(("verse", "syllables", "ending"), [
    ("  mi ritrovai per una selva oscura", 11, "ura"),  # vowels are joined: selva_oscura
    ("quel peccator, forbendola a' capelli", 11, "elli"),
    ("in sul paese ch'Adice e Po riga", 10, "iga"),  # pa-e-se is a hiatus
    ("abbandono`", 5, "o`"),  # a final accent counts one more
    ("perché", 3, "e`"),
    ("re", 1, "e"),
    ("...", 0, ""),
])  # fmt: skip
def test_syllables_and_rhyme_by_hand(verse: str, syllables: int, ending: str) -> None:
    assert (inferno.count_syllables(verse), inferno.rhyme(verse)) == (syllables, ending)
    heading = "Canto I\n\n"  # is no verse
    assert inferno.hendecasyllable_fraction(f"{heading}{verse}") == (syllables == 11)


def test_notes_read_the_measures() -> None:
    canto = [27, 0.008, 0.897, 0.738, 1.0]
    copied, learned = inferno.read_measures([23, 0.004, 0.904, 0.371, 0.0], canto)
    assert copied == "the sample is not copied: at most 23 characters in a row, and 27 in the canto"
    assert learned == (
        "spelling is learned (90%; canto 90%), metre is partly learned (37%; canto 74%), "
        "rhyme is not learned (0%; canto 100%)"
    )
