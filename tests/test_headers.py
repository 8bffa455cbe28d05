"""Which row of a table names its columns: told from a title above it, and from a row of data."""

from __future__ import annotations

import pytest

from finetune_core.data.columns import COLUMN_NAMES
from finetune_core.data.headers import find_header

ASKED = [["Waar is het?", "Hier."], ["Wanneer is het?", "Nu."], ["Wie is het?", "Ik."]]
JUDGED = [["De fiets is rood.", "goed"], ["De auto is stuk.", "slecht"], ["Wat een dag!", "goed"]]
NUMBERED = [[number, *row] for number, row in enumerate(ASKED, start=1)]
WORDS = [["fiets", "bike"], ["auto", "car"], ["boot", "boat"]]


@pytest.mark.parametrize(
    "rows",
    [
        [["text", "label"], ["Fine.", "good"]],
        [["Vraag", "Antwoord"], ["Hoe?", "Zo."]],
        [["soort", "kleur"], ["a b c", "x"], ["d e f", "y"]],
        [["text", "label"], ["Fine.", "good"], ["text", "label"], ["Bad.", "poor"]],  # two files, one after the other
        [["opmerking"], ["De fiets is rood."], ["De auto is stuk."]],  # one column
        [["tekst"], ["De fiets is rood."], ["De auto is stuk."]],
        [["opmerking", ""], ["De fiets is rood.", ""], ["De auto is stuk.", ""]],  # one column, and an empty one
        [["vraag", ""], *ASKED],  # the second has no name
        [["opmerking", ""], *JUDGED],
        [["vraag", ""], *WORDS],
        [["", "zin"], [0, "De fiets is rood."], [1, "De auto is stuk."]],  # as pandas writes its index
        [["", "opmerking", "soort"], *([number, *row] for number, row in enumerate(JUDGED))],
        [["vraag", "antwoord", "bron"], *ASKED],  # longer than the rest
        [["soort", "kleur", "bron"], *WORDS],
        [["Vraag", "Antwoord"], ["Nog in te vullen", ""], *ASKED],  # a single cell below it
        [["opmerking", "soort"], ["Waar is het?", "vraag"], ["Daar.", "antwoord"], ["Wie is het?", "vraag"]],
        [["What do you want to know?", "answer"], *ASKED],  # a long name beside one that is known
        [["Engels", "Nederlands"], ["house", "huis"], ["question", "vraag"], ["tree", "boom"]],  # a list of words
    ],
)
def test_the_first_row_names_the_columns(rows):
    assert find_header(rows, COLUMN_NAMES) == (True, ())


@pytest.mark.parametrize(
    ("above", "rows"),
    [
        (["Klantvragen Q3"], [["Klantvragen Q3", ""], ["Vraag", "Antwoord"], *ASKED]),
        (["Klantvragen Q3"], [["Klantvragen Q3"], ["Vraag", "Antwoord"], *ASKED]),  # CSV, without its delimiters
        (["Klantvragen Q3"], [["", "Klantvragen Q3", ""], ["Nr", "Vraag", "Antwoord"], *NUMBERED]),
        (["Klantvragen", "Juli 2024"], [["Klantvragen"], ["Juli 2024"], ["Vraag", "Antwoord"], *ASKED]),
        (["2024"], [[2024, None, None], ["Nr", "Vraag", "Antwoord"], *NUMBERED]),
        (["Gesprek"], [["Gesprek", "", ""], ["Nr", "Zin", "Kleur"], *NUMBERED]),  # a title that a column could have
        (["Woordenlijst"], [["Woordenlijst", ""], ["Nederlands", "Engels"], *WORDS]),  # names that are not known
        (["Meningen"], [["Meningen", ""], ["Opmerking", "Soort"], *JUDGED]),
        (  # what an export says of itself
            ["Datum: 2024-07-01", "Onderwerp Verkoop"],
            [["Datum:", "2024-07-01", ""], ["Onderwerp", "Verkoop", ""], ["Nr", "Vraag", "Antwoord"], *NUMBERED],
        ),
        (  # longer than the rest: a sentence with commas
            ["Export van 1 juli alle klanten vertrouwelijk"],
            [["Export van 1 juli", "alle klanten", "vertrouwelijk"], ["vraag", "antwoord"], *ASKED],
        ),
    ],
)
def test_what_stands_above_the_names_is_no_row(above, rows):
    assert find_header(rows, COLUMN_NAMES) == (True, tuple(above))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [["alone"]],
        [["1", "2"], ["3", "4"]],
        [["same", "same"], ["3", "4"]],
        JUDGED,
        ASKED,
        [["Er was eens een koning die niet kon slapen."], ["Elke nacht liep hij door zijn kasteel."]],  # prose
        [["Waar is het?", ""], *ASKED[1:]],  # an empty answer
        [["Waar is het?", "Hier.", "Om de hoek."], *ASKED[1:]],  # longer than the rest
        [["auto", ""], ["fiets", "bike"], ["boot", ""], ["kar", "cart"]],  # single cells are a habit of this file
        [["Dag allemaal.", ""], ["Waar is het?", "vraag"], ["Daar.", "antwoord"], ["Wie is het?", "vraag"]],
        [[f"Regel {n}", ""] for n in range(12)] + [["Vraag", "Antwoord"], *ASKED],  # too much for a title
    ],
)
def test_without_names_every_row_is_data(rows):
    assert find_header(rows, COLUMN_NAMES) == (False, ())


@pytest.mark.parametrize(
    ("rows", "above"),
    [
        ([["1", "2"], ["3", "4"]], ()),
        ([["Waar is het?", ""], *ASKED[1:]], ()),
        ([["Engels", "Nederlands"], ["answer", "antwoord"], ["question", "vraag"], ["tree", "boom"]], ()),
        ([["Woordenlijst", ""], ["Nederlands", "Engels"], *WORDS], ()),  # else nobody could say that it is
        ([["Klantvragen Q3", ""], ["Vraag", "Antwoord"], *ASKED], ("Klantvragen Q3",)),
    ],
)
def test_a_person_who_says_that_the_first_row_names_the_columns_is_believed(rows, above):
    assert find_header(rows, COLUMN_NAMES, is_said=True) == (True, above)
