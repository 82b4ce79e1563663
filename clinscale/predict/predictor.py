"""Windows through the model and back together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinscale import models
from clinscale.errors import DataError, DivergenceError
from clinscale.predict.batching import collate, length_sorted_batches
from clinscale.predict.card import CARD_FILE, TaskCard
from clinscale.storage import again_if_away
from clinscale.tasks import Example, Outcomes, Prediction, Window, kind_of, lines_of
from clinscale.tokenizers import load_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OUTPUTS = ("logits", "start_logits", "end_logits")
CHUNK = 128
"""Examples whose windows are in memory at once: enough to batch by length, and hundreds of megabytes at most."""


def windows_of(
    card: TaskCard, tokenizer: "PreTrainedTokenizerBase", example: Example, *, train: bool = False
) -> list[Window]:
    """The model inputs of one example, as a card says; no model is needed."""
    return kind_of(card.task).windows(
        example,
        tokenizer,
        card.labels,
        max_tokens=card.max_tokens,
        stride_tokens=card.stride_tokens,
        long_documents=card.long_documents,
        train=train,
    )


class Predictor:
    """A fine-tuned model with its card: examples in, predictions with character offsets out."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        card: TaskCard,
        *,
        batch_size: int = 8,
    ) -> None:
        models.check_padding(model.config, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.card = card
        self.kind = kind_of(card.task)
        self.batch_size = batch_size
        """Windows of one forward pass at most; may be lowered at any time, no answer depends on it."""
        self._family = models.family_named(model.config.model_type)
        self._block_size = self._family.padding_block(model.config)

    def predict(
        self,
        examples: Sequence[Example],
        on_progress: Callable[[int], None] | None = None,
        *,
        windows: Sequence[list[Window]] | None = None,
    ) -> list[Prediction]:
        """One prediction for each example, in order; documents longer than the model are read in windows.

        A model of single lines (`unit: line`) reads the lines of a document one by one, as it was trained.
        `on_progress` is called with the number of windows done in each batch. `windows` are those of each example,
        from a caller who asks about the same examples again and again; they are made where None.

        Raises:
            DivergenceError: the model gives no numbers.
        """
        if self.card.task.unit == "line" and windows is None and any("\n" in one.text for one in examples):
            return self._predict_by_line(examples, on_progress)
        was_training = self.model.training
        self.model.eval()
        predictions = []
        try:
            for start in range(0, len(examples), CHUNK):
                chunk = examples[start : start + CHUNK]
                made = windows[start : start + CHUNK] if windows else [self.windows(example) for example in chunk]
                predictions += self._predict_chunk(chunk, made, on_progress)
        finally:
            self.model.train(was_training)
        return predictions

    def _predict_by_line(
        self, examples: Sequence[Example], on_progress: Callable[[int], None] | None
    ) -> list[Prediction]:
        places, lines = [], []
        for number, example in enumerate(examples):
            for line_number, start, line in lines_of(example.text):
                places.append((number, start))
                lines.append(replace(example, id=f"{example.id}:{line_number}", text=line, entities=()))
        found: list[Prediction] = [{"entities": []} for _ in examples]
        for (number, start), prediction in zip(places, self.predict(lines, on_progress), strict=True):
            for entity in prediction["entities"]:
                moved = {"start": entity["start"] + start, "end": entity["end"] + start}
                found[number]["entities"].append(entity | moved)
        return found

    def _predict_chunk(
        self,
        examples: Sequence[Example],
        per_example: Sequence[list[Window]],
        on_progress: Callable[[int], None] | None,
    ) -> list[Prediction]:
        flat = [window for windows in per_example for window in windows]
        outputs: list[dict[str, np.ndarray[Any, Any]]] = [{} for _ in flat]
        # without padding BigBird's windows of all lengths may share a batch
        block_size = self._block_size and (None if models.leaves_padding_out(self.model) else self._block_size)
        for indices in length_sorted_batches(flat, self.batch_size, block_size=block_size):
            batch = collate(
                [flat[index] for index in indices],
                pad_token_id=self.tokenizer.pad_token_id,
                family=self._family.name,
                token_types=self.card.token_types,
            )
            for index, output in zip(indices, self._forward(batch), strict=True):
                outputs[index] = _without_padding(output, len(flat[index].input_ids))
                _check_numbers(outputs[index], self.card.task.name)
            if on_progress:
                on_progress(len(indices))
        predictions, start = [], 0
        for example, windows in zip(examples, per_example, strict=True):
            mine = outputs[start : start + len(windows)]
            predictions.append(self.kind.decode(example, windows, mine, self.card.labels))
            start += len(windows)
        return predictions

    def windows(self, example: Example, *, train: bool = False) -> list[Window]:
        """The model inputs of one example, as the card says."""
        return windows_of(self.card, self.tokenizer, example, train=train)

    def score(
        self, examples: Sequence[Example], *, windows: Sequence[list[Window]] | None = None
    ) -> dict[str, float]:
        """The task's metrics on examples that carry their gold answers; `windows` as in `predict`."""
        return self.kind.score(examples, self.predict(examples, windows=windows), self.card.labels)

    def outcomes(self, examples: Sequence[Example]) -> Outcomes:
        """Outcome of each example, for intervals and comparisons."""
        return Outcomes.of(self.kind, examples, self.predict(examples), self.card.labels, self.count_tokens)

    def count_tokens(self, text: str) -> int:
        """Length of a text for the model, without special tokens."""
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _forward(self, batch: dict[str, Any]) -> "list[dict[str, np.ndarray[Any, Any]]]":
        import torch

        with torch.inference_mode():
            result = self.model(**{name: tensor.to(self.model.device) for name, tensor in batch.items()})
        arrays = {name: result[name].float().cpu().numpy() for name in _OUTPUTS if name in result}
        return [{name: array[row] for name, array in arrays.items()} for row in range(len(batch["input_ids"]))]


def load_predictor(
    folder: str | Path,
    *,
    batch_size: int = 8,
    attention: models.Attention = "exact",
    precision: models.InferencePrecision = "fp32",
) -> Predictor:
    """The predictor of a fine-tuned HF folder, on a GPU where there is one.

    With `attention="exact"` no padding is computed, so that an answer does not depend on the batch it is in. With
    `precision="bf16"` probabilities change in their second or third decimal.

    Raises:
        DataError: `folder` is not a fine-tuned clinscale model, or not all of its weights are there.
    """
    import torch

    def load() -> Predictor:
        models.check_hf_folder(folder)
        card = TaskCard.read(folder)
        head = kind_of(card.task).head
        model = models.load_hf(str(folder), head=head, attention=attention, unpad=True, new_head=False)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        _check_outputs(model.config.id2label, card, folder)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        return Predictor(model.to(device, dtype), load_tokenizer(str(folder)), card, batch_size=batch_size)

    return again_if_away(folder, load)


def _check_outputs(id2label: Mapping[int, str], card: TaskCard, folder: str | Path) -> None:
    """Raise DataError where the card is not of these outputs: each would be under the name of another."""
    ours, theirs = list(kind_of(card.task).output_names(card.labels)), [id2label[at] for at in sorted(id2label)]
    if ours != theirs:
        at = next((at for at, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
        differing = f"; number {at} is {ours[at]!r} and {theirs[at]!r}" if at is not None else ""
        raise DataError(
            f"{folder}: {CARD_FILE} and config.json (id2label) must name the same outputs in one order, got "
            f"{len(ours)} and {len(theirs)}{differing}; one of the two is of another model: pull or fine-tune it again"
        )


def _check_numbers(output: "dict[str, np.ndarray[Any, Any]]", task: str) -> None:
    """Raise DivergenceError where outputs are no numbers: each would be taken for the first label, or no answer."""
    import numpy as np

    if not all(np.isfinite(array).all() for array in output.values()):
        raise DivergenceError(
            f"task {task}: the outputs of the model must be finite numbers, got others: its weights are damaged or "
            "have diverged; pull it again, train it at a lower learning rate, or answer in fp32"
        )


def _without_padding(output: "dict[str, np.ndarray[Any, Any]]", tokens: int) -> "dict[str, np.ndarray[Any, Any]]":
    """Outputs without padding: per-token ones are cut to the window's own length; per-window outputs as they are."""
    return {
        name: array[:tokens] if name != "logits" or array.ndim == 2 else array for name, array in output.items()
    }
