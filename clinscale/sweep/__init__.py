"""Many fine-tunings, one winner a study: search spaces, Ray Tune with Optuna's samplers, the choice, the version.

A sweep holds one or many studies (a task asked of a base model) under one budget. Every start, epoch and end of a trial
is a line of its ledger; decisions are functions of the ledger, and MLflow's runs and Optuna's studies are made from it.
"""

from clinscale.sweep.config import BudgetConfig, StudyConfig, SweepConfig, SweepRecipe, SweepRuntime
from clinscale.sweep.controller import SweepController
from clinscale.sweep.dimensions import Prior
from clinscale.sweep.forecast import (
    Forecast,
    SearchForecast,
    Work,
    expected_epochs,
    expected_work,
    forecast,
    suggestions,
)
from clinscale.sweep.inputs import Study, SweepInputs, read_inputs
from clinscale.sweep.ledger import Epoch, Ledger, Look, Trial, best_of
from clinscale.sweep.policy import Budget, Halving, Resume, Search, Start, goes_on, next_move
from clinscale.sweep.run import (
    SweepProgress,
    SweepResult,
    begun_studies,
    check_start,
    is_judged,
    load_sweep,
    sweep,
)
from clinscale.sweep.sampler import Proposer, quiet_optuna
from clinscale.sweep.segments import run_segments
from clinscale.sweep.space import SearchSpace, load_space
from clinscale.sweep.trial import OBJECTIVE, Report, Segment
from clinscale.sweep.winner import StudyResult

__all__ = [
    "OBJECTIVE",
    "Budget",
    "BudgetConfig",
    "Epoch",
    "Forecast",
    "Halving",
    "Ledger",
    "Look",
    "Prior",
    "Proposer",
    "Report",
    "Resume",
    "Search",
    "SearchForecast",
    "SearchSpace",
    "Segment",
    "Start",
    "Study",
    "StudyConfig",
    "StudyResult",
    "SweepConfig",
    "SweepController",
    "SweepInputs",
    "SweepProgress",
    "SweepRecipe",
    "SweepResult",
    "SweepRuntime",
    "Trial",
    "Work",
    "begun_studies",
    "best_of",
    "check_start",
    "expected_epochs",
    "expected_work",
    "forecast",
    "goes_on",
    "is_judged",
    "load_space",
    "load_sweep",
    "next_move",
    "quiet_optuna",
    "read_inputs",
    "run_segments",
    "suggestions",
    "sweep",
]
