"""dante_verse.py: n-gram baselines, and measures of copies, words, metre and rhyme."""

from __future__ import annotations

import math
from pathlib import Path

import dante_gpt
import dante_verse
import lab_common

import pytest
from conftest import EXPECTED


def test_ngram_loss_worked_out_by_hand() -> None:
    # In "aab", a occurs twice and b once, and there are 2 distinct characters. Smoothed:
    p_a, p_b = (2 + 2 * 1 / 2) / (3 + 2), (1 + 2 * 1 / 2) / (3 + 2)
    assert dante_verse.ngram_loss("aab", "a", 1) == pytest.approx(-math.log(p_a))
    # Nothing follows "b", so the bigram falls back on p(a). "a" is followed by a once, b once:
    losses = -math.log(p_a), -math.log((1 + 2 * p_b) / (2 + 2))
    assert dante_verse.ngram_loss("aab", "ab", 2) == pytest.approx(sum(losses) / 2)


def test_the_inferno_has_the_recorded_figures(inferno: Path, capsys: pytest.CaptureFixture) -> None:
    train, validation = dante_gpt.split(lab_common.load_inferno(inferno))
    assert (len(train), len(validation), len(set(train + validation))) == (168_095, 18_678, 58)
    losses = [dante_verse.ngram_loss(train, validation, n) for n in dante_gpt.NGRAMS.values()]
    assert losses == pytest.approx([3.0426, 2.3245, 1.6244], abs=5e-5)
    assert dante_verse.hendecasyllable_fraction(train) == pytest.approx(0.73, abs=0.01)
    assert dante_verse.terza_rima_fraction(train) > 0.95
    dante_verse.print_measures(train[:5000], train, validation)  # as long as the measured sample
    out, err = capsys.readouterr()
    assert "not the edition" not in err
    recorded = (EXPECTED / "dante_gpt.txt").read_text().splitlines()[-6:]
    for part in (slice(40), slice(52, None)):  # the names, and the column of the held-out canto
        assert [line[part] for line in out.splitlines()] == [line[part] for line in recorded]
    assert out.splitlines()[1].split()[-2] == "5000"  # this sample is copied


def test_copies_words_and_terza_rima_by_hand() -> None:
    assert dante_verse.longest_copy("una selva scura", "per una selva oscura") == "una selva "
    source = "abcdefghijklmnopqrstuvwxyz"
    assert dante_verse.copied_fraction(source[:20] + "!!", source) == pytest.approx(1 / 3)
    assert dante_verse.copied_fraction("too short", source) == 0
    assert dante_verse.known_word_fraction("Che' piu` PIU' 7 vita!", "la vita, che' piu`") == 3 / 4
    assert dante_verse.known_word_fraction("perché è", "perche` e`") == 1
    verse = "Nel mezzo del cammin di nostra vita"
    assert dante_verse.hendecasyllable_fraction(f"Canto I\n\n{verse}\nmi") == 1 / 2
    good = "vita\nscura\nsmarrita\n\ndura\nforte\npaura\n\nmorte\ntrovai\nscorte"
    assert dante_verse.terza_rima_fraction(good) == 1
    assert dante_verse.terza_rima_fraction(good.replace("forte", "verde")) == 1 / 2  # not taken up
    assert dante_verse.terza_rima_fraction(good.replace("smarrita", "verde")) == 1 / 2  # ABC
    assert dante_verse.terza_rima_fraction(lab_common.load_inferno(lab_common.VERSES)) == 1


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
    assert (dante_verse.count_syllables(verse), dante_verse.rhyme(verse)) == (syllables, ending)
