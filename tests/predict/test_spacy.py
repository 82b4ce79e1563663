"""A spaCy pipeline is given what `clinscale predict` answers."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from clinscale.errors import ConfigError
from clinscale.predict import load_predictor
from clinscale.tasks import Example

spacy = pytest.importorskip("spacy", reason="spaCy is not installed; pip install 'clinscale[spacy]'")


@pytest.fixture(autouse=True)
def factory():
    """As spaCy finds it, whether or not this checkout's entry points are installed."""
    [(name, place)] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "entry-points"
    ]["spacy_factories"].items()
    EntryPoint(name, place, "spacy_factories").load()


def pipeline(folder, **config):
    nlp = spacy.blank("en")
    nlp.add_pipe("clinscale", config={"model": str(folder), **config})
    return nlp


def test_labels_become_cats(folders, documents):
    folder = folders("demo_documents", "longformer")
    texts = [example.text for example in documents("demo_documents")[:3]]
    expected = load_predictor(folder).predict([Example(str(number), text) for number, text in enumerate(texts)])
    docs = list(pipeline(folder).pipe([texts[0], " ", *texts[1:]], batch_size=2))
    assert docs.pop(1).cats == {}
    assert [doc.cats for doc in docs] == [pytest.approx(answer["scores"], abs=1e-4) for answer in expected]


def test_entities_become_ents(folders, documents):
    folder = folders("demo_entities", "bigbird", 64)
    text = documents("demo_entities")[-1].text
    [answer] = load_predictor(folder).predict([Example("1", text)])
    found = answer["entities"]
    assert found
    doc = pipeline(folder)(text)
    covered = {place for ent in doc.ents for place in range(ent.start_char, ent.end_char)}
    assert {place for one in found for place in range(one["start"], one["end"])} <= covered
    assert {ent.label_ for ent in doc.ents} <= {one["label"] for one in found}
    exact = {(one["start"], one["end"], one["label"]) for one in found}
    strict = pipeline(folder, alignment_mode="strict")(text)
    assert {(ent.start_char, ent.end_char, ent.label_) for ent in strict.ents} <= exact


def test_a_kind_that_needs_a_second_text_is_refused(folders):
    with pytest.raises(ConfigError, match="demo_pairs of kind pair, which needs a second text"):
        pipeline(folders("demo_pairs", "bigbird"))
