import json

import pytest

from clinscale.corpus import phrases, train_tokenizer
from clinscale.scan.readings import readings

TEXT = "the elderly patient came back with chest pain after lunch"
WORDS = TEXT.split()
TOKENIZER = train_tokenizer([TEXT] * 9, 300)


@pytest.mark.parametrize(
    "written",
    [
        json.dumps({f"Ġ{word}": number for number, word in enumerate(WORDS)}, ensure_ascii=False),
        json.dumps({word: number for number, word in enumerate(WORDS)}),
        json.dumps([[word, -1.5] for word in WORDS]),
        json.dumps(TOKENIZER.tokenize(TEXT), ensure_ascii=False),
        "Ġ".join(WORDS[:5]) + " Ġ" + "Ġ".join(WORDS[5:]),
        json.dumps([piece for word in WORDS for piece in (word[:2], f"##{word[2:]}")]),
        "\n".join(f"{word} O" for word in WORDS),
        "\n".join(f"{word}\tNN\tB-DRUG" for word in WORDS),
        " ".join(f"{word}_NN" for word in WORDS),
        " ".join(f"{word}/O" for word in WORDS),
        json.dumps([[word, "O"] for word in WORDS]),
        "\n".join(json.dumps({"row": number, "word": word}) for number, word in enumerate(WORDS)),
        json.dumps(
            [{"id": number, "content": word, "special": True} for number, word in enumerate(WORDS)], indent=1
        ),
        "\n".join(f"{number},{word},x" for number, word in enumerate(WORDS)),
        json.dumps({"type": "Buffer", "data": list(TEXT.encode())}),
        json.dumps(TOKENIZER(TEXT)["input_ids"], indent=1),
        " ".join(map(str, TOKENIZER(TEXT)["input_ids"])),
    ],
)
def test_a_note_in_another_spelling_is_read(written):
    found = readings(written, [TOKENIZER.backend_tokenizer])
    assert any(len(set(phrases(reading, 8)[0]) & set(phrases(TEXT, 8)[0])) for reading in found)


def test_ordinary_text_has_no_other_reading():
    assert not list(readings("BP 120/80 at 10:30, seen by Dr. A. No O2. 1 2 3 4 5 6 7 8 9 10 11 12 13", []))
