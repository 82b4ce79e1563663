"""Fine-tuning: one task, one model, one set of hyperparameters; one loop for all four task kinds."""

from clinscale.finetune.alone import finetune, seconds_per_epoch
from clinscale.finetune.config import FinetuneConfig, FinetuneRecipe, FinetuneRuntime
from clinscale.finetune.evaluate import (
    OUTCOMES_BY_SEED_FILE,
    OUTCOMES_FILE,
    SHORT_TOKENS,
    TRIVIAL_OUTCOMES_FILE,
    Judgement,
    Scores,
    check_judged,
    judge,
    stored_outcomes,
    stored_trivial_outcomes,
    task_inputs,
    task_tags,
)
from clinscale.finetune.group import finetune_on_workers
from clinscale.finetune.looks import Looks, look_part
from clinscale.finetune.loop import FinetuneResult, card_of
from clinscale.finetune.run import FinetuneSummary, SeedResult, run_finetune
from clinscale.finetune.soup import Soup, dev_scores, first_averaged, greedy_soup, load_for, write_judged

__all__ = [
    "OUTCOMES_BY_SEED_FILE",
    "OUTCOMES_FILE",
    "SHORT_TOKENS",
    "TRIVIAL_OUTCOMES_FILE",
    "FinetuneConfig",
    "FinetuneRecipe",
    "FinetuneResult",
    "FinetuneRuntime",
    "FinetuneSummary",
    "Judgement",
    "Looks",
    "Scores",
    "SeedResult",
    "Soup",
    "card_of",
    "check_judged",
    "dev_scores",
    "finetune",
    "finetune_on_workers",
    "first_averaged",
    "greedy_soup",
    "judge",
    "load_for",
    "look_part",
    "run_finetune",
    "seconds_per_epoch",
    "stored_outcomes",
    "stored_trivial_outcomes",
    "task_inputs",
    "task_tags",
    "write_judged",
]
