"""Classical models through scikit-learn for the baselines of kinds; None where there is nothing to learn."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from clinscale.tasks.example import Entity, Example
from clinscale.tasks.kinds.file_words import in_whole_words, words_of_file
from clinscale.tasks.kinds.kind import Prediction
from clinscale.tasks.kinds.words import OUTSIDE, tag_words, words_of

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")


def _fitted(texts: Sequence[str], **settings: Any) -> Any:
    """A TfidfVectorizer that knows the words of `texts`; None where they have none, as texts of signs alone."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return TfidfVectorizer(**settings).fit(texts)
    except ValueError:  # scikit-learn's word for it
        return None


def label_chances(
    train: Sequence[Example],
    examples: Sequence[Example],
    texts: Sequence[Iterable[tuple[str, str | None]]],
    labels: Sequence[str],
    *,
    several: bool,
) -> np.ndarray | None:
    """(examples, labels): probabilities by logistic regression on TF-IDF of words and word pairs.

    Args:
        train: examples to learn from.
        examples: examples to answer.
        texts: the texts of both; with a second text, the words that the two share are features, too.
        labels: names of the columns.
        several: whether an example can have several labels, or none.
    """
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    known, unknown = map(list, texts)
    words = _fitted(
        [text for both in known for text in both if text is not None],
        ngram_range=(1, 2),
        min_df=2,
        sublinear_tf=True,
    )
    if words is None:
        return None

    def features(some: Sequence[tuple[str, str | None]]) -> Any:
        first = words.transform([text for text, _ in some])
        if all(second is None for _, second in known):
            return first
        second = words.transform([second or "" for _, second in some])
        return sparse.hstack([first, second, first.multiply(second)]).tocsr()

    gold = np.array([[label in e.labels for label in labels] for e in train], dtype=int)
    learned, asked = features(known), features(unknown)
    chances = np.tile(gold.mean(axis=0), (len(examples), 1))
    model = LogisticRegression(C=10, max_iter=1000)
    if several:
        for number in np.flatnonzero(
            gold.any(axis=0) & ~gold.all(axis=0)
        ):  # the others have nothing to learn from
            chances[:, number] = model.fit(learned, gold[:, number]).predict_proba(asked)[:, 1]
    elif gold.any(axis=0).sum() > 1:
        model.fit(learned, gold.argmax(axis=1))
        chances[:, model.classes_] = model.predict_proba(asked)
    return chances


def entities(train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction] | None:
    """The entities of each example, by a linear classifier of each word by its form and its neighbours'."""
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import SGDClassifier

    hasher = FeatureHasher(n_features=2**18, input_type="string")
    rows, tags = [], []
    for example in train:
        words = words_of(example.text)
        rows += _word_features(example.text, words)
        tags += tag_words(words, example.entities)
    if len(set(tags)) < 2:  # nothing to distinguish
        return None
    model = SGDClassifier(loss="modified_huber", alpha=1e-6, max_iter=20, tol=None, random_state=0)
    model.fit(hasher.transform(rows), tags)
    predictions: list[Prediction] = []
    for example in examples:
        words = words_of(example.text)
        found = model.predict(hasher.transform(_word_features(example.text, words))) if words else []
        answered = [_plain(e) for e in _entities_of(words, found)]
        if example.is_split_into_words:
            answered = in_whole_words(words_of_file(example), answered)
        predictions.append({"entities": answered})
    return predictions


def _word_features(text: str, words: Sequence[tuple[int, int]]) -> list[list[str]]:
    """Features of each word: its form, its ends, its shape, and the forms of its neighbours."""
    forms = [text[start:end] for start, end in words]
    lower = ["<", "<", *(form.lower() for form in forms), ">", ">"]
    return [
        [
            f"word={lower[at + 2]}",
            *(f"{side}={lower[at + 2 + side]}" for side in (-2, -1, 1, 2)),
            f"before={lower[at + 1]} {lower[at + 2]}",
            f"after={lower[at + 2]} {lower[at + 3]}",
            *(f"ends={form[-size:].lower()}" for size in (2, 3, 4)),
            *(f"begins={form[:size].lower()}" for size in (2, 3)),
            f"shape={re.sub(r'[a-z]+', 'a', re.sub(r'[A-Z]', 'A', re.sub(r'[0-9]', '0', form)))}",
        ]
        for at, form in enumerate(forms)
    ]


def _entities_of(words: Sequence[tuple[int, int]], tags: Sequence[str]) -> Iterator[Entity]:
    """Runs of one type; as in seqeval an I that continues nothing begins an entity."""
    open_entity: Entity | None = None
    for (start, end), tag in zip(words, tags, strict=True):
        prefix, _, label = tag.partition("-")
        if open_entity and prefix == "I" and label == open_entity.label:
            open_entity = Entity(open_entity.start, end, label)
            continue
        if open_entity:
            yield open_entity
        open_entity = None if tag == OUTSIDE else Entity(start, end, label)
    if open_entity:
        yield open_entity


def _plain(entity: Entity) -> dict[str, Any]:
    return {"start": entity.start, "end": entity.end, "label": entity.label, "score": 1.0}


def likely_sentences(train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction] | None:
    """The sentence of each example that is most like its question."""
    words = _fitted(list(dict.fromkeys(example.text for example in train)), sublinear_tf=True)
    if words is None:
        return None
    spans = {
        text: [match.span() for match in _SENTENCE.finditer(text)] or [(0, len(text))]
        for text in {e.text for e in examples}
    }
    known = {text: words.transform([text[start:end] for start, end in found]) for text, found in spans.items()}
    predictions = []
    for example in examples:
        likeness = (known[example.text] @ words.transform([example.text_pair or ""]).T).toarray()[:, 0]
        start, end = spans[example.text][int(likeness.argmax())]
        answer = example.text[start:end].strip()
        start += len(example.text[start:end]) - len(example.text[start:end].lstrip())
        predictions.append(
            {"answer": answer, "start": start, "end": start + len(answer), "score": float(likeness.max())}
        )
    return predictions
