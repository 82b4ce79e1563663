"""The judged winner of a study: what is known of it between the test and its registration, and its file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from clinscale.errors import DataError
from clinscale.finetune import FinetuneRecipe, Scores
from clinscale.storage import read_json, write_json
from clinscale.sweep.choose import Finalist
from clinscale.tasks import Outcomes

WINNER_FILE = "winner.json"


@dataclass(frozen=True)
class JudgedWinner:
    """The winner of a study, judged on the test split; written once, and read by each later start of the study."""

    id: str
    """Id of the trial whose weights are kept."""
    dev: float
    """Mean development score over seeds, by which it was chosen."""
    recipe: FinetuneRecipe
    base: int
    """Number of its base among the study's."""
    trials: int
    """Trials of the search, without those that confirmed it."""
    device_seconds: float
    """Spent on the study."""
    finalists: tuple[Finalist, ...]
    """The settings that were compared at the end."""
    winner_run: str
    """MLflow run of the trial."""
    outcomes: tuple[Outcomes, ...]
    """Test outcomes of the kept seed, then of the others."""
    linear: dict[str, float]
    """Scores of the linear baseline on the test split; empty in files of earlier versions."""
    remarks: tuple[str, ...]
    """Sentences that everybody who sees the score must know; none in files of earlier versions."""
    scores: Scores
    model: str
    """Fingerprint of the model that was judged; empty in files of earlier versions."""

    def write(self, folder: Path) -> None:
        """Write the file in a study's folder."""
        write_json(folder / WINNER_FILE, self.plain())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file in a study's folder; DataError when it holds something else."""
        return cls.parse(read_json(folder / WINNER_FILE), source=str(folder / WINNER_FILE))

    def plain(self) -> dict[str, Any]:
        """JSON-ready values that `parse` reads back."""
        return {
            "id": self.id,
            "dev": self.dev,
            "recipe": self.recipe.plain(),
            "base": self.base,
            "trials": self.trials,
            "device_seconds": self.device_seconds,
            "finalists": [one.plain() for one in self.finalists],
            "winner_run": self.winner_run,
            "outcomes": [one.plain() for one in self.outcomes],
            "linear": self.linear,
            "remarks": list(self.remarks),
            "model": self.model,
            **self.scores.plain(),
        }

    @classmethod
    def parse(cls, values: Any, *, source: str) -> Self:
        """The winner from the values that `plain` made, by this version or an earlier one.

        Raises:
            DataError: they are something else. ConfigError: its recipe is not one of this version.
        """
        try:
            return cls(
                id=values["id"],
                dev=values["dev"],
                recipe=FinetuneRecipe.parse(values["recipe"], source=source),
                base=values["base"],
                trials=values["trials"],
                device_seconds=values["device_seconds"],
                finalists=tuple(Finalist(**one) for one in values["finalists"]),
                winner_run=values["winner_run"],
                outcomes=tuple(Outcomes.parse(one, source=source) for one in values["outcomes"]),
                linear=dict(values.get("linear", {})),
                remarks=tuple(values.get("remarks", ())),
                scores=Scores.parse(values, source=source),
                model=str(values.get("model", "")),
            )
        except (AttributeError, KeyError, TypeError):
            raise DataError(f"{source} holds no winner of a study; delete it to judge the trials again") from None
