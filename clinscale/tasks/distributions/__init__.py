"""Data sets as their publishers ship them, one file each; the catalog names them as a task's `format`."""

from clinscale.tasks.distributions.distribution import Distribution
from clinscale.tasks.distributions.emrqa import EMRQA
from clinscale.tasks.distributions.evidence_inference import EVIDENCE_INFERENCE
from clinscale.tasks.distributions.i2b2_2006 import I2B2_2006
from clinscale.tasks.distributions.i2b2_2010 import I2B2_2010
from clinscale.tasks.distributions.i2b2_2010_relations import I2B2_2010_RELATIONS
from clinscale.tasks.distributions.i2b2_2012 import I2B2_2012
from clinscale.tasks.distributions.i2b2_2012_relations import I2B2_2012_RELATIONS
from clinscale.tasks.distributions.i2b2_2014 import I2B2_2014
from clinscale.tasks.distributions.meddocan import MEDDOCAN
from clinscale.tasks.distributions.mednli import MEDNLI
from clinscale.tasks.distributions.mimic_aki import MIMIC_AKI
from clinscale.tasks.distributions.mtsamples import MTSAMPLES
from clinscale.tasks.distributions.nli4ct import NLI4CT
from clinscale.tasks.distributions.openi import OPENI

__all__ = ["DISTRIBUTIONS", "Distribution"]

DISTRIBUTIONS: dict[str, Distribution] = {
    "emrqa": EMRQA,
    "evidence_inference": EVIDENCE_INFERENCE,
    "i2b2_2006": I2B2_2006,
    "i2b2_2010": I2B2_2010,
    "i2b2_2010_relations": I2B2_2010_RELATIONS,
    "i2b2_2012": I2B2_2012,
    "i2b2_2012_relations": I2B2_2012_RELATIONS,
    "i2b2_2014": I2B2_2014,
    "meddocan": MEDDOCAN,
    "mednli": MEDNLI,
    "mimic_aki": MIMIC_AKI,
    "mtsamples": MTSAMPLES,
    "nli4ct": NLI4CT,
    "openi": OPENI,
}
"""Format name -> how it is read."""
