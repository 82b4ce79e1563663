"""One meaning of a value for all that read rows: typed values in, a text, an id, a label, a truth or a number out."""

import datetime
import math
import pickle
from decimal import Decimal
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from clinscale.cells import (
    CellError,
    as_id,
    as_label,
    as_labels,
    as_text,
    as_truth,
    as_whole_number,
    is_missing,
    is_short_name,
)

UNSEEN = ["\u200b\ufeff", "\x07 \0"]
NULL = [None, math.nan, np.float32("nan"), Decimal("nan"), Decimal("snan"), pd.NA, pd.NaT]
BLANK = ["", " \n", *UNSEEN]
NOTHING = [*NULL, *BLANK]
SPELLED = ["nan", "NaN", " NULL ", "<NA>", r"\N", "(null)", "[NULL]", "#NAME?", "#VALUE!"]
NO_SCALARS = [["a"], {"a": 1}, b"a", ("a",), {"a"}, datetime.date(2020, 1, 1), pd.Timestamp("2020-01-01")]
SECRET = "Jane Roe"


@pytest.mark.parametrize("value", [*NOTHING, *SPELLED])
def test_what_is_missing_is_no_text_no_id_and_no_number(value):
    assert is_missing(value)
    assert as_text(value, "c") is as_id(value, "c") is as_whole_number(value, "c") is None


@pytest.mark.parametrize("value", BLANK)
def test_a_blank_cell_is_no_label_and_a_no(value):
    assert as_labels(value, "c", ";") == ()
    assert as_truth(value, "c") is False


@pytest.mark.parametrize("value", [*NULL, *SPELLED])
def test_null_does_not_say_that_there_is_no_label(value):
    with pytest.raises(CellError, match=r"column 'c' is null, .*; write an empty list or text where there is no"):
        as_labels(value, "c", ";")
    with pytest.raises(CellError, match=r"column 'c' is null, .*; write 0 where it is a no, or drop the row"):
        as_truth(value, "c")


@pytest.mark.parametrize("value", [*NOTHING])
def test_what_is_missing_is_no_label(value):
    assert as_label(value, "c") is None


@pytest.mark.parametrize("value", [0, False, "0", "None", "NA", 0.0, np.int64(0), "nil"])
def test_zero_and_words_are_there(value):
    assert not is_missing(value)


def test_a_text_stays_as_it_stands():
    assert as_text(" Größe 1,80\r\n", "c") == " Größe 1,80\r\n"
    assert as_text("7.0", "c") == "7.0"
    assert as_text("pain 😀", "c") == "pain 😀"


@pytest.mark.parametrize("value", [*NO_SCALARS, 5, 1.5, True, np.int64(3), Decimal("1"), UUID(int=1), math.inf])
def test_what_is_no_text_is_refused_by_its_type(value):
    with pytest.raises(
        CellError, match=rf"column 'c' must hold text, got a value of type {type(value).__name__};"
    ):
        as_text(value, "c")


def test_half_a_character_is_refused_by_its_place():
    for read in (as_text, as_id, as_label):
        with pytest.raises(CellError, match="column 'c' holds half a character at character 5"):
            read("pain \ud83d and", "c")


def test_base64_of_an_attachment_is_no_text():
    """FHIR holds notes as `content.0.attachment.data`."""
    import base64

    note = "Patient denies chest pain. No fever since admission, 3 days ago. Größe 1,80 m."
    for data in (base64.b64encode(note.encode()), base64.encodebytes(note.encode() * 9)):
        with pytest.raises(CellError, match="holds base64 where text is needed"):
            as_text(data.decode(), "c")
        with pytest.raises(CellError, match="holds base64"):
            as_text("data:text/plain;base64," + data.decode(), "c")
    for data in (note.encode().hex(), "\\x" + note.encode().hex(), note.encode().hex().upper()):
        with pytest.raises(CellError, match="holds hexadecimal digits"):
            as_text(data, "c")
    for text in (
        note,
        "ACGT" * 40,
        "1234567890" * 20,
        "Krankenhaus" * 20,
        "2f7a" * 16,
        note.replace(" ", "\n"),
        "患者は胸痛を" * 30,
    ):
        assert as_text(text, "c") == text


@pytest.mark.parametrize(
    "value", [7, 7.0, "7", " 7 ", "7.0", np.int32(7), np.float64(7), Decimal("7.0"), Decimal(7)]
)
def test_one_patient_has_one_id_whatever_type_his_number_is(value):
    assert as_id(value, "c") == "7"


@pytest.mark.parametrize(
    "text", ["007", "7.00", "007.0", "7.1", "1.2.0", "P7.0", "7e0", "+7", "٧.0", "2125-03-01", "a b"]
)
def test_ids_that_only_look_like_numbers_stay(text):
    assert as_id(text, "c") == text


def test_ids_are_exact():
    assert as_id(2**60 + 1, "c") == str(2**60 + 1)
    assert as_id("-1.0", "c") == as_id(-1, "c") == "-1"
    assert as_id(0, "c") == as_id(-0.0, "c") == "0"
    assert as_id(UUID(int=5), "c") == str(UUID(int=5))
    assert as_id("9007199254740991.0", "c") == "9007199254740991"
    for value in (float(2**53), np.float32(2**60), 10**60, "9007199254740992.0", "9" * 5000 + ".0"):
        with pytest.raises(CellError, match="too large to be exact"):
            as_id(value, "c")


@pytest.mark.parametrize("text", ["1.23457E+15", " 1,23457E+15 ", "1.2345678901234567e+19", "-3E+12"])
def test_ids_that_a_spreadsheet_shortened_are_not_taken_for_one(text):
    with pytest.raises(CellError, match="shortened to its first digits"):
        as_id(text, "c")


@pytest.mark.parametrize("shown", ["b'No pain.'", 'b"Pt\'s pain"', "np.str_('pain')", "tensor([101, 7592])"])
def test_values_as_python_shows_them_are_refused(shown):
    for read in (as_text, as_id, as_label):
        with pytest.raises(CellError, match="holds a value as Python shows it, such as"):
            read(shown, "c")


def test_a_list_of_texts_or_an_object_of_python_is_no_text():
    for shown in ("['No pain.', 'Home.']", '["No pain."]', "{'findings': 'clear', 'impression': None}"):
        with pytest.raises(CellError, match="holds a list or object where text is needed"):
            as_text(shown, "c")
    for text in ("[**2101-3-4**] No pain [**Name**]", "b'fast then", '{"a": 1}', "['a' said the patient", "np"):
        assert as_text(text, "c") == text


def test_an_id_filled_up_with_zero_bytes_is_not_another_patient():
    for read in (as_id, as_label):
        with pytest.raises(CellError, match="column 'c' holds zero bytes; take them out"):
            read("P7\0\0", "c")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (r"{\rtf1\ansi No chest pain.}", "RTF"),
        ("%PDF-1.4 stream", "PDF"),
        ("<ClinicalDocument xmlns='urn:hl7-org:v3'><text>No chest pain.</text></ClinicalDocument>", "XML"),
        ("\n<?xml version='1.0'?><ClinicalDocument/>", "XML"),
        ("\vMSH|^~\\&|LAB|", "messages of HL7"),
    ],
)
def test_a_document_of_another_format_is_no_text(text, what):
    with pytest.raises(CellError, match=f"holds {what} where text is needed"):
        as_text(text, "c")


@pytest.mark.parametrize(
    "value", [*NO_SCALARS, True, np.bool_(1), 7.5, math.inf, Decimal("Infinity"), Decimal("7.5")]
)
def test_what_is_no_id_is_refused_by_its_type(value):
    with pytest.raises(
        CellError, match=f"must hold an id as text or whole number, got .* {type(value).__name__};"
    ):
        as_id(value, "c")


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0, "0"), (0.0, "0"), ("0.0", "0"), (np.int64(1), "1"), (True, "True"), (np.bool_(0), "False"),
        (" a ", "a"), ("[1] benign", "[1] benign"), ("nan", "nan"), ("None", "None"), ("[OTHER]", "[OTHER]"),
        ("0.5", "0.5"), ("{x}", "{x}"),
    ],
)  # fmt: skip
def test_labels_of_any_type(value, label):
    assert as_label(value, "c") == label


@pytest.mark.parametrize("value", [*NO_SCALARS, 0.5, math.inf])
def test_what_is_no_label_is_refused_by_its_type(value):
    with pytest.raises(CellError, match=f"must hold a label, got a value of type {type(value).__name__};"):
        as_label(value, "c")


@pytest.mark.parametrize(
    "value", ["['a']", '["a", "b"]', "[]", "[1 2]", "{'a': 1}", "{}", "['a'\n 'b']", "('a',)", "array(['a'])"]
)
def test_a_list_that_was_written_as_text_is_no_label(value):
    with pytest.raises(CellError, match="holds a list where one label is needed"):
        as_label(value, "c")


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        (0, ("0",)), (1.0, ("1",)), ("a; b;a;", ("a", "b")), (["a", 0, 0.0], ("a", "0")), ([], ()), ("[]", ()),
        ('["a", "b"]', ("a", "b")), (("a",), ("a",)), (False, ("False",)), ("0", ("0",)),
    ],
)  # fmt: skip
def test_several_labels(value, labels):
    assert as_labels(value, "c", ";") == labels


@pytest.mark.parametrize(
    "value",
    [
        [0, 1, 1],
        [True, False, False],
        [0.0, 0.0],
        ["a", None],
        ["a", math.nan],
        [["a"]],
        [{}],
        {"a": 1},
        b"a",
        "['a']",
        "[" * 9999 + "]",
    ],
)
def test_what_is_no_list_of_labels_is_refused(value):
    with pytest.raises(CellError, match="column 'c'"):
        as_labels(value, "c", ";")


def test_truths():
    assert all(as_truth(value, "c") for value in (1, 1.0, "1", "1.0", True, "TRUE", " true ", np.bool_(1)))
    assert not any(as_truth(value, "c") for value in (0, -0.0, "0", "0.0", False, "False", np.bool_(0)))
    for value in (-1, 0.5, 2, "yes", [1], {}):
        with pytest.raises(CellError, match="column 'c' must hold 0, 1 or nothing"):
            as_truth(value, "c")


def test_whole_numbers():
    assert [as_whole_number(value, "c") for value in (5, 5.0, "5", "5.0", " 05", np.int64(5))] == [5] * 6
    for value in (5.5, True, "5.5", "five", "9" * 5000, [5], math.inf, 10**50):
        with pytest.raises(CellError, match="column 'c'"):
            as_whole_number(value, "c")


def test_errors_travel_between_processes_and_never_hold_the_value():
    for read in (as_text, as_id, as_label, as_truth, as_whole_number):
        with pytest.raises(CellError) as caught:
            read([SECRET], "c")
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.reason) == (str(caught.value), caught.value.reason)
        assert SECRET not in str(again)


@pytest.mark.parametrize("text", ["7", "000-00", "train:1", "PMC12.txt", "12/7", "a#3"])
def test_ids_that_messages_may_show(text):
    assert is_short_name(text)


@pytest.mark.parametrize("text", ["", "Jane Roe 7", "cough", "x" * 40 + "1", "7\x1b[2J", "7\n", "größe7", "a,7"])
def test_ids_that_may_be_text_are_not_shown(text):
    assert not is_short_name(text)
