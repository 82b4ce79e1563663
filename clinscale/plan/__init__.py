"""Numbers before the money: does it fit, how long does it take, what does it cost; counted, and launches nothing.

config ──▶ Run: the model by its numbers, rows, steps
             │ Site: devices, links, prices
             ▼
      memory by part · step by part ──▶ PretrainPlan: stages, sizes of clusters, nearest, cheapest, fastest
"""

from clinscale.plan.estimate import Estimate, Shape
from clinscale.plan.facts import ModelFacts
from clinscale.plan.launch import check_launch, site_here
from clinscale.plan.memory import Memory, RankSetup, model_states, rank_memory
from clinscale.plan.pretrain import PAYS, SIZES, PretrainPlan, plan_pretrain, probed
from clinscale.plan.probe import BUSY_SHARE, Probe, Reading, busy_share_here, one_turn, probe_of
from clinscale.plan.run import Run
from clinscale.plan.simulation import Simulation, Spread, simulate_pretrain
from clinscale.plan.site import Site
from clinscale.plan.step import Network, Rates, StepSetup, StepTime, network_of, rates_of, step_time
from clinscale.plan.sweep import StudyPlan, TunePlan, plan_tune, planned_costs
from clinscale.plan.sweep_simulation import SweepSpread, simulate_tune
from clinscale.plan.works import Work, works_of

__all__ = [
    "BUSY_SHARE",
    "PAYS",
    "SIZES",
    "Estimate",
    "Memory",
    "ModelFacts",
    "Network",
    "PretrainPlan",
    "Probe",
    "RankSetup",
    "Rates",
    "Reading",
    "Run",
    "Shape",
    "Simulation",
    "Site",
    "Spread",
    "StepSetup",
    "StepTime",
    "StudyPlan",
    "SweepSpread",
    "TunePlan",
    "Work",
    "busy_share_here",
    "check_launch",
    "model_states",
    "network_of",
    "one_turn",
    "plan_pretrain",
    "plan_tune",
    "planned_costs",
    "probe_of",
    "probed",
    "rank_memory",
    "rates_of",
    "simulate_pretrain",
    "simulate_tune",
    "site_here",
    "step_time",
    "works_of",
]
