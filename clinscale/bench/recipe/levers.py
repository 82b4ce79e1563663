"""Levers: changes to the paper's recipe, each a few overrides under one name, alone and together."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from clinscale.config import nearest
from clinscale.errors import ConfigError
from clinscale.pretrain import PretrainConfig
from clinscale.runfolder import check_plain_name

PAPER = "paper"
"""The recipe that levers are compared with, as a name beside theirs."""


@dataclass(frozen=True)
class Lever:
    """One change to the paper's recipe."""

    name: str
    overrides: tuple[str, ...]
    """`recipe.key=value`, as `clinscale pretrain` takes them; none is the paper's recipe once more."""

    @classmethod
    def parse(cls, text: str) -> "Lever":
        """A known lever by its name, or `NAME: recipe.key=value ...`; ConfigError for anything else."""
        name, colon, overrides = text.partition(":")
        name = name.strip()
        if not colon:
            if name not in LEVERS:
                raise ConfigError(
                    f"lever {name!r} is none of the known ones; {nearest(name, list(LEVERS))}, or write your own as "
                    "'NAME: recipe.key=value'"
                )
            return cls(name, LEVERS[name])
        check_plain_name("lever", name)
        if name == PAPER or name in LEVERS:
            raise ConfigError(f"lever {name!r} has its meaning already; choose another name")
        return cls(name, tuple(overrides.split()))

    def config(self, paper: PretrainConfig) -> PretrainConfig:
        """The paper's run with this lever pulled.

        Raises:
            ConfigError: an override is not of `recipe`, breaks a rule, or would change the start, the budget or what
                the loss is measured on.
        """
        for override in self.overrides:
            if not override.startswith("recipe."):
                raise ConfigError(
                    f"lever {self.name} must change keys of recipe only, got {override!r}; what is not of the recipe "
                    "is set for all levers, beside the config"
                )
        changed = PretrainConfig.load(None, self.overrides, base=paper.plain())
        for key in _SAME:
            if getattr(changed.recipe, key) != getattr(paper.recipe, key):
                raise ConfigError(
                    f"lever {self.name} must leave recipe.{key} as it is, for otherwise its loss does not compare with "
                    "the paper's; set it for all, beside the config"
                )
        return changed


LEVERS = {
    "falling_mask": (
        "recipe.masking.mask_fraction=0.3",
        "recipe.masking.schedule=linear",
        "recipe.masking.final_mask_fraction=0.15",
    ),
    "falling_mask_cosine": (
        "recipe.masking.mask_fraction=0.3",
        "recipe.masking.schedule=cosine",
        "recipe.masking.final_mask_fraction=0.15",
    ),
    "all_mask": ("recipe.masking.all_mask=true",),
    "spans": ("recipe.masking.span_length=3",),
    "muon": ("recipe.optimizer.name=muon",),
    "schedule_free": (
        "recipe.optimizer.name=schedule_free",
        "recipe.optimizer.schedule=constant_with_warmup",
    ),
    "short_rows": (
        "recipe.short_rows.row_tokens=512",
        "recipe.short_rows.share=0.5",
    ),
    "small_batches": (
        "recipe.small_batches.rows_per_step=4",
        "recipe.small_batches.share=0.25",
        "recipe.optimizer.schedule_unit=tokens",
    ),
    "causal": ("recipe.causal.share=0.25",),
}
"""The levers that need no definition."""

_SAME = ("shards", "model", "seed", "duration", "evaluation_pattern")
"""Keys of `recipe` that make the start, the budget of steps, or what is evaluated."""


def chosen_levers(texts: Sequence[str], together: Sequence[str] = ()) -> list[Lever]:
    """Each lever alone, then what is pulled together.

    Args:
        texts: levers as `Lever.parse` reads them.
        together: combinations as `NAME+NAME`; without any, all levers at once.

    Raises:
        ConfigError: a name is given twice or unknown, or two levers of one combination set a key to different values.
    """
    alone = {lever.name: lever for lever in map(Lever.parse, texts)}
    if not texts or len(alone) < len(texts):
        raise ConfigError(f"levers must be at least one, each given once, got {', '.join(texts) or 'none'}")
    combinations = [text.split("+") for text in together] or [list(alone)]
    found = dict(alone)
    for names in combinations:
        for name in names:
            if name not in alone:
                raise ConfigError(f"--together names {name!r}, which is no --lever; {nearest(name, list(alone))}")
        _check_compatible([alone[name] for name in names])
        if len(names) > 1:
            overrides = dict.fromkeys(override for name in names for override in alone[name].overrides)
            found["+".join(names)] = Lever("+".join(names), tuple(overrides))
    return list(found.values())


def _check_compatible(levers: Sequence[Lever]) -> None:
    for one, other in itertools.combinations(levers, 2):
        ours, theirs = (
            dict(text.split("=", 1) for text in lever.overrides if "=" in text) for lever in (one, other)
        )
        for key in ours.keys() & theirs.keys():
            if ours[key] != theirs[key]:
                raise ConfigError(
                    f"levers {one.name} and {other.name} both set {key}, so they cannot be pulled together; name those "
                    "that can by --together A+B, or one of them alone by --together A"
                )
