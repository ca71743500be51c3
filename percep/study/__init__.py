"""The study of the paper's question: does the perturbation fall on what the classifier looks at?"""

from percep.study.causal import CurveRow, RegionRow
from percep.study.criteria import Claim, Criterion, judge, verdict
from percep.study.examination import Depth, Evidence, Examined, examine
from percep.study.findings import Findings, SweepRow, Variant, find
from percep.study.perturbations import CONTROLS, Optimum, Setting, optimum
from percep.study.tables import AssociationRow, CausalRow, ComparisonRow, Inference

__all__ = [
    "CONTROLS",
    "AssociationRow",
    "CausalRow",
    "Claim",
    "ComparisonRow",
    "Criterion",
    "CurveRow",
    "Depth",
    "Evidence",
    "Examined",
    "Findings",
    "Inference",
    "Optimum",
    "RegionRow",
    "Setting",
    "SweepRow",
    "Variant",
    "examine",
    "find",
    "judge",
    "optimum",
    "verdict",
]
