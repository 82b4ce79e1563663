"""A fine-tuned folder as a component of a spaCy pipeline: entities to `doc.ents`, labels to `doc.cats`.

    nlp = spacy.blank("en")
    nlp.add_pipe("clinscale", config={"model": "organ-model"})

spaCy finds it by the entry point of the package; `pip install 'clinscale[spacy]'` brings spaCy.
"""

from collections.abc import Iterable, Iterator

from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import filter_spans, minibatch

from clinscale.errors import ConfigError
from clinscale.predict.predictor import load_predictor
from clinscale.tasks import Example, Prediction, fault_of_texts


class ClinscaleComponent:
    """Answers documents of any length; those without text are left as they are."""

    def __init__(self, model: str, *, batch_size: int, alignment_mode: str) -> None:
        self._predictor = load_predictor(model, batch_size=batch_size)
        self._alignment_mode = alignment_mode
        kind, task = self._predictor.kind, self._predictor.card.task
        if kind.needs:
            raise ConfigError(
                f"{model} answers task {task.name} of kind {task.kind}, which needs a {kind.needs}; a spaCy pipeline "
                "takes kinds that need text alone: ask this one with `clinscale predict`"
            )

    def __call__(self, doc: Doc) -> Doc:
        """The document with its answers set."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 64) -> Iterator[Doc]:
        """The documents with their answers set; `batch_size` are read together, in windows of like length."""
        for docs in minibatch(stream, batch_size):
            asked = [doc for doc in docs if not fault_of_texts(doc.text)]
            examples = [Example(id=str(number), text=doc.text) for number, doc in enumerate(asked)]
            for doc, prediction in zip(asked, self._predictor.predict(examples), strict=True):
                self._set(doc, prediction)
            yield from docs

    def _set(self, doc: Doc, prediction: Prediction) -> None:
        if "scores" in prediction:
            doc.cats = {**doc.cats, **prediction["scores"]}
            return
        spans = [
            doc.char_span(
                entity["start"], entity["end"], label=entity["label"], alignment_mode=self._alignment_mode
            )
            for entity in prediction["entities"]
        ]
        doc.ents = filter_spans(span for span in spans if span is not None)  # two may have grown into one token


@Language.factory(  # type: ignore[untyped-decorator]
    "clinscale",
    assigns=["doc.ents", "doc.cats"],
    default_config={"batch_size": 8, "alignment_mode": "expand"},
)
def make_component(
    nlp: Language, name: str, model: str, batch_size: int, alignment_mode: str
) -> ClinscaleComponent:
    """The component that `nlp.add_pipe("clinscale", config=...)` makes.

    Args:
        nlp: the pipeline.
        name: of the component in it.
        model: HF folder of a model of kind tokens or sequence, as `clinscale pull` writes it.
        batch_size: windows of one forward pass at most.
        alignment_mode: what becomes of an entity that ends within a token of spaCy: `expand` (default) takes the
            whole token, so that nothing found is lost, `contract` leaves it out, `strict` drops the entity.
    """
    return ClinscaleComponent(model, batch_size=batch_size, alignment_mode=alignment_mode)
