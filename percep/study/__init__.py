"""The study of the paper's question: does the perturbation fall on what the classifier looks at?"""

from percep.study.causal import CurveRow, RegionRow
from percep.study.criteria import Claim, Criterion, judge, verdict
from percep.study.evidence import BlockMap, Evidence, Kept, NamedMap, keep
from percep.study.examination import Depth, Examined, examine
from percep.study.findings import Findings, SweepRow, Variant, find
from percep.study.perturbations import CONTROLS, Optimum, Setting, optimum
from percep.study.tables import AssociationRow, CausalRow, ComparisonRow, Inference

__all__ = [
    "CONTROLS",
    "AssociationRow",
    "BlockMap",
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
    "Kept",
    "NamedMap",
    "Optimum",
    "RegionRow",
    "Setting",
    "SweepRow",
    "Variant",
    "examine",
    "find",
    "judge",
    "keep",
    "optimum",
    "verdict",
]
