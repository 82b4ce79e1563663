"""MEDDOCAN: the same invented Spanish documents in brat's format and in XML, with and without a byte-order mark."""

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Entity, load_task, read_task

TEXT = "Datos del paciente.\nNombre: Inés Ñoñez.\nEdad: 91 años\n"
SPANS = [("NAME", "NOMBRE_SUJETO_ASISTENCIA", "Inés Ñoñez"), ("AGE", "EDAD_SUJETO_ASISTENCIA", "91 años")]


def write_document(folder, name, *, mark=False):
    """As the release has it: where a text begins with a mark, all offsets count it."""
    text = ("\ufeff" if mark else "") + TEXT + name
    lines, tags = [], []
    for number, (category, label, surface) in enumerate(SPANS, 1):
        start = text.index(surface)
        end = start + len(surface)
        lines.append(f"T{number}\t{label} {start} {end}\t{surface}\n")
        tags.append(
            f'<{category} id="T{number}" start="{start}" end="{end}" text="{surface}" TYPE="{label}" comment=""/>'
        )
    for form in ("brat", "xml"):
        (folder / form).mkdir(parents=True, exist_ok=True)
    (folder / "brat" / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "brat" / f"{name}.ann").write_text("".join(lines), encoding="utf-8")
    (folder / "xml" / f"{name}.xml").write_text(
        "<?xml version='1.0' encoding='UTF-8'?>\n<MEDDOCAN>\n"
        f"  <TEXT><![CDATA[{text}]]></TEXT>\n  <TAGS>\n    {''.join(tags)}\n  </TAGS>\n</MEDDOCAN>\n",
        encoding="utf-8",
    )


def read(data, *changes):
    return read_task(load_task("meddocan", list(changes)), str(data))


@pytest.mark.parametrize("where", ["", "corpus"])
def test_both_forms_give_the_same_examples_in_the_official_splits(tmp_path, where):
    for split in ("train", "dev", "test"):
        write_document(tmp_path / where / split, f"S1-{split}")
        write_document(tmp_path / where / split, f"S2-{split}", mark=True)
    brat, xml = read(tmp_path), read(tmp_path, "options.encoding=xml")
    assert brat.fingerprint == xml.fingerprint
    assert [example.id for example in brat.splits["dev"]] == ["S1-dev", "S2-dev"]
    for example in brat.splits["test"]:
        assert example.text.startswith("Datos")
        assert example.entities == (
            Entity(28, 38, "NOMBRE_SUJETO_ASISTENCIA"),
            Entity(46, 53, "EDAD_SUJETO_ASISTENCIA"),
        )
    assert brat.findings.found == xml.findings.found == {"documents": 6, "annotations": 12}
    assert "documents of train: found 2, MEDDOCAN has 500" in brat.findings.remarks


def test_one_folder_of_the_release_is_split_by_document(tmp_path):
    for number in range(20):
        write_document(tmp_path, f"S{number}")
    found = read(tmp_path)
    assert {split: len(examples) for split, examples in found.splits.items()} == {"train": 14, "dev": 2, "test": 4}
    assert "split by document" in found.findings.remarks[0]


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds neither xml nor train/xml"):
        read(tmp_path, "options.encoding=xml")
