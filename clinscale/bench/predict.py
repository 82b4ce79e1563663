"""`clinscale bench predict`: answers on long notes, against Hugging Face's pipeline and the obvious loop."""

import random
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clinscale import corpus, models
from clinscale.bench.encoders import FAMILIES
from clinscale.bench.files import invent_texts
from clinscale.bench.measure import Times, ratio, side_by_side, surroundings
from clinscale.bench.record import BenchRecord, OnRatio, Ratios, say_nothing
from clinscale.errors import ClinscaleError, ConfigError
from clinscale.predict import Predictor, TaskCard, load_predictor
from clinscale.tasks import Example, Prediction, kind_of, load_task

KINDS = ("classification", "entities")

_TASKS = {
    "classification": ("demo_documents", ("cardiac", "renal", "pulmonary", "infectious")),
    "entities": ("demo_entities", ("problem", "treatment", "test")),
}
_ASKED = 3.0
_TOLERANCE = 1e-4
_VOCABULARY = 8192
_STRIDE_TOKENS = 128


def bench_predict(
    *,
    documents: int,
    tokens: tuple[int, int],
    max_tokens: int,
    batch_size: int,
    layers: int,
    hidden_size: int,
    repeats: int,
    families: tuple[str, ...] = FAMILIES,
    kinds: tuple[str, ...] = KINDS,
    precision: models.InferencePrecision = "fp32",
    device: str = "cpu",
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda name: None,
    on_ratio: OnRatio = say_nothing,
) -> BenchRecord:
    """Invented notes through a fine-tuned folder of random weights, text in, predictions out.

    B is `load_predictor`. A has the same weights in `AutoModel...`, and the same windows in batches as large: a loop
    over windows sorted by length and padded to the longest of each batch, and for classification the pipeline as well,
    which takes documents as they come. B's answers must be A's, in fp32 and whatever the precision that is timed.

    Args:
        documents: how many notes.
        tokens: of the shortest and the longest note; the others are evenly between.
        max_tokens: window of the model; longer notes are cut (classification) or read in windows (entities).
        batch_size: windows of one forward pass.
        layers: of the model; base has 12.
        hidden_size: of the model; base has 768.
        repeats: timed runs of each side, in turns.
        families: which are measured.
        kinds: of task.
        precision: that both sides are timed in.
        device: `cpu` or `cuda`.
        seed: of notes and weights.
        on_progress: receives the name of what is measured next.
        on_ratio: receives each ratio as it ends.

    Raises:
        ConfigError: a shape that cannot be measured.
        ClinscaleError: A and B do not agree.
    """
    if not 0 < tokens[0] <= tokens[1]:
        raise ConfigError(
            f"tokens must be the lengths of the shortest and the longest note, got {tokens}; give the smaller number "
            "first"
        )
    before = surroundings("predict", device)
    ratios = Ratios(on_ratio)
    per_s: dict[str, dict[str, dict[str, float]]] = {}
    details: dict[str, Any] = {"precision": precision, "layers": layers}
    texts = [text for text, _ in invent_texts(seed).notes]
    tokenizer = corpus.train_tokenizer(texts, _VOCABULARY)
    examples = _notes(texts, tokenizer, documents, tokens, seed)
    shape = {
        "num_hidden_layers": layers,
        "hidden_size": hidden_size,
        "num_attention_heads": hidden_size // 64,
        "intermediate_size": 4 * hidden_size,
    }
    for family in families:
        base = models.ModelConfig(family=family, size="base", max_tokens=max_tokens, hf_overrides=shape)
        for kind in kinds:
            name = f"{family}_{kind}"
            on_progress(name)
            with tempfile.TemporaryDirectory() as temporary:
                folder = _fine_tuned(Path(temporary), kind, models.build(base, tokenizer, seed=seed), tokenizer)
                predictor = load_predictor(folder, batch_size=batch_size)
                predictor.model.to(device)
                peers: dict[str, _Loop | _Pipeline] = {name: _Loop(folder, predictor, device)}
                if kind == "classification":
                    peers[f"{name}_pipeline"] = _Pipeline(folder, predictor, device)
            answers = predictor.predict(examples)
            for peer_name, peer in peers.items():
                # padding to a longer neighbour changes HF's BigBird, so its answers are taken one by one
                alone = models.family_named(family).padding_block(predictor.model.config)
                theirs = peer.predict(examples, 1 if alone else batch_size)
                _assert_equal(peer_name, theirs, answers)
            if precision == "bf16":
                for model in (predictor.model, *(peer.model for peer in peers.values())):
                    model.bfloat16()
            windows = [window for example in examples for window in predictor.windows(example)]
            amounts = {
                "documents": len(examples),
                "windows": len(windows),
                "tokens": sum(len(window.input_ids) for window in windows),
            }
            for peer_name, peer in peers.items():
                a, b = partial(peer.predict, examples, batch_size), partial(predictor.predict, examples)
                times = side_by_side(a, b, repeats=repeats, device=device)
                ratios[peer_name] = times.ratio(_ASKED)
                per_s[peer_name] = _per_s(times, amounts)
                details[peer_name] = times.seconds() | amounts
                if device.startswith("cuda"):
                    peaks = [_peak_bytes(work) for work in (a, b)]
                    ratios[f"{peer_name}_peak_memory"] = ratio([peaks[0] / peaks[1]], None)
                    details[peer_name] |= dict(zip(("a_bytes", "b_bytes"), peaks, strict=True))
    return BenchRecord(surroundings=before, ratios=ratios, per_s=per_s, details=details)


class _Loop:
    """Windows in batches of similar length, padded to the longest, through `AutoModel...`."""

    def __init__(self, folder: Path, predictor: Predictor, device: str) -> None:
        import transformers

        loader = {
            "sequence": transformers.AutoModelForSequenceClassification,
            "tokens": transformers.AutoModelForTokenClassification,
        }[predictor.kind.head]
        self.model = loader.from_pretrained(folder).to(device).eval()
        self._predictor = predictor

    def predict(self, examples: Sequence[Example], batch_size: int) -> list[Prediction]:
        """One for each example."""
        mine = self._predictor
        per_example = [mine.windows(example) for example in examples]
        flat = [window for windows in per_example for window in windows]
        order = sorted(range(len(flat)), key=lambda index: -len(flat[index].input_ids))
        outputs: list[Any] = [None] * len(flat)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows = {"input_ids": [list(flat[index].input_ids) for index in chosen]}
            batch = mine.tokenizer.pad(rows, return_tensors="pt").to(self.model.device)
            with torch.inference_mode():
                logits = self.model(**batch).logits.float().cpu().numpy()
            for index, of_window in zip(chosen, logits, strict=True):
                outputs[index] = {"logits": of_window}
        rest = iter(outputs)
        return [
            mine.kind.decode(example, windows, [next(rest) for _ in windows], mine.card.labels)
            for example, windows in zip(examples, per_example, strict=True)
        ]


class _Pipeline:
    """`transformers.pipeline("text-classification")`."""

    def __init__(self, folder: Path, predictor: Predictor, device: str) -> None:
        import transformers

        self._pipeline = transformers.pipeline("text-classification", model=str(folder), device=device)
        self._max_tokens = predictor.card.max_tokens

    @property
    def model(self) -> Any:
        """The model that it holds."""
        return self._pipeline.model

    def predict(self, examples: Sequence[Example], batch_size: int) -> list[Prediction]:
        """One for each example, best label first."""
        texts = [example.text for example in examples]
        answers = self._pipeline(
            texts, batch_size=batch_size, truncation=True, max_length=self._max_tokens, top_k=None
        )
        return [
            {
                "label": labels[0]["label"],
                "labels": [labels[0]["label"]],
                "scores": {each["label"]: each["score"] for each in labels},
            }
            for labels in answers
        ]


def _notes(texts: Sequence[str], tokenizer: Any, count: int, tokens: tuple[int, int], seed: int) -> list[Example]:
    """Notes of evenly spread lengths, in random order; each is invented ones one after another, in its own order."""
    draw = random.Random(seed)
    shortest, longest = tokens
    lengths = [shortest + (longest - shortest) * number // max(1, count - 1) for number in range(count)]
    draw.shuffle(lengths)
    made = []
    for number, length in enumerate(lengths):
        text = ""
        ends: list[int] = []
        while len(ends) < length:
            text += "\n".join(draw.sample(texts, 10))
            encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ends = [end for _, end in encoding["offset_mapping"]]
        made.append(Example(id=f"note-{number}", text=text[: ends[length - 1]]))
    return made


def _fine_tuned(temporary: Path, kind_name: str, encoder: Any, tokenizer: Any) -> Path:
    """A folder as `finetune` leaves it, with weights that nobody trained."""
    task_name, labels = _TASKS[kind_name]
    task = load_task(task_name)
    kind = kind_of(task)
    base = models.save_hf(encoder, tokenizer, temporary / "base")
    model = models.load_hf(
        str(base), head=kind.head, labels=kind.output_names(labels), problem_type=kind.problem_type(task)
    )
    max_tokens = models.max_tokens_of(model.config)
    folder = models.save_hf(model, tokenizer, temporary / "hf")
    TaskCard(task=task, labels=labels, max_tokens=max_tokens, stride_tokens=_STRIDE_TOKENS).write(folder)
    return folder


def _assert_equal(name: str, theirs: list[Prediction], mine: list[Prediction]) -> None:
    for number, (a, b) in enumerate(zip(theirs, mine, strict=True)):
        (a_numbers, a_rest), (b_numbers, b_rest) = _parted(a), _parted(b)
        differences = [abs(x - y) for x, y in zip(a_numbers, b_numbers, strict=False)]
        if a_rest != b_rest or not all(difference <= _TOLERANCE for difference in differences):
            raise ClinscaleError(
                f"bench {name}: clinscale and Hugging Face answer note {number} differently, by "
                f"{max(differences, default=0.0):g} in its probabilities; report this machine"
            )


def _parted(prediction: Prediction) -> tuple[list[float], Any]:
    """The probabilities of a prediction, and what it says."""
    if "entities" in prediction:
        entities = prediction["entities"]
        return [e["score"] for e in entities], [(e["start"], e["end"], e["label"]) for e in entities]
    scores = prediction["scores"]
    return [scores[label] for label in sorted(scores)], prediction["labels"]


def _per_s(times: Times, amounts: dict[str, int]) -> dict[str, dict[str, float]]:
    """Documents and tokens a second of both sides, by their median."""
    medians = {side: found["median_s"] for side, found in times.seconds().items()}
    return {
        side: {name: amounts[name] / seconds for name in ("documents", "tokens")}
        for side, seconds in medians.items()
    }


def _peak_bytes(work: Callable[[], Any]) -> int:
    """Most memory of the GPU that `work` takes beside what is there already."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before
