"""The model card of a base model: what it read, how it was trained, what it does for held-out notes."""

from collections.abc import Sequence
from pathlib import Path

from clinscale.config import flatten
from clinscale.corpus import ShardSet
from clinscale.pretrain.config import PretrainConfig
from clinscale.pretrain.memorisation import exposure_metrics
from clinscale.registry import Section, write_card


def write_base_card(
    folder: Path,
    config: PretrainConfig,
    shards: ShardSet,
    *,
    family: str,
    perplexity: tuple[float, float],
    exposures: Sequence[float],
) -> None:
    """README.md of an exported base model.

    `perplexity` is that on held-out rows before and after the training, `exposures` are those of its canaries, if any.
    """
    manifest = shards.manifest
    lengths = {f"tokens of a note, {what}": value for what, value in manifest.document_tokens.items()}
    left_out = {f"left out: {why}": count for why, count in manifest.left_out.items() if count}
    facts = {
        "note files": f"`{shards.notes_fingerprint}`",
        "shards": f"`{shards.fingerprint}`",
        **shards.sizes,
        **lengths,
        **left_out,
    }
    recipe = {key: value for key, value in flatten(config.recipe.plain()) if value is not None and key != "shards"}
    sections: dict[str, Section] = {
        "Held-out perplexity": [{"before": perplexity[0], "after": perplexity[1]}],
        "Memorisation of planted phrases": [
            {"metric": name, "value": value} for name, value in exposure_metrics(exposures).items()
        ],
        "Data": [{"what": what, "value": value} for what, value in facts.items()],
        "Recipe": [{"setting": key, "value": value} for key, value in recipe.items()],
        "Limits": (
            "A base model answers no task; fine-tune it. It was trained on clinical notes and can hold fragments of "
            "them, so treat it as you treat the notes."
        ),
        "Licence": (
            "No licence is recorded here. The licence of the model that it continues, if any, and the terms under "
            "which the notes were given bind it."
        ),
    }
    write_card(
        folder,
        title=config.name,
        about=f"A {family} encoder, pretrained by masked language modelling.",
        sections=sections,
        metadata={"library_name": "transformers", "tags": ["clinscale", family, "fill-mask"]},
    )
