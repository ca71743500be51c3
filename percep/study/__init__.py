"""The study of the paper's question: does the perturbation fall on what the classifier looks at?"""

from percep.study.attributions import ATTRIBUTIONS, AttributionFunction, StudyAttribution
from percep.study.causal import CurveRow, RegionRow
from percep.study.criteria import Claim, Criterion, evaluate_criteria, verdict
from percep.study.displacement import MovementRow
from percep.study.effects import CausalRow
from percep.study.evidence import BlockMap, Evidence, NamedMap, PhotographEvidence, photograph_evidence
from percep.study.findings import Findings, SweepRow, VariantResult, analyse
from percep.study.measurement import Depth, Measurements, measure
from percep.study.networks import NetworkRow, across_networks
from percep.study.perturbations import CONTROLS, Optimum, Setting, optimum
from percep.study.photographs import PhotographRow
from percep.study.strata import StratumRow
from percep.study.tables import AssociationRow, ComparisonRow, Inference

__all__ = [
    "ATTRIBUTIONS",
    "CONTROLS",
    "AssociationRow",
    "AttributionFunction",
    "BlockMap",
    "CausalRow",
    "Claim",
    "ComparisonRow",
    "Criterion",
    "CurveRow",
    "Depth",
    "Evidence",
    "Findings",
    "Inference",
    "Measurements",
    "MovementRow",
    "NamedMap",
    "NetworkRow",
    "Optimum",
    "PhotographEvidence",
    "PhotographRow",
    "RegionRow",
    "Setting",
    "StratumRow",
    "StudyAttribution",
    "SweepRow",
    "VariantResult",
    "across_networks",
    "analyse",
    "evaluate_criteria",
    "measure",
    "optimum",
    "photograph_evidence",
    "verdict",
]
