"""How a study is declared, run and judged.

A study imports its declarations from here and nothing else of the lab:
`Study`, the claims, `Gate`, `Evidence` (for annotations) and `resample_groups`.
"""

from assay.lab.claims import Better, Bound, Claim, Gate, NotWorse, Ratio, Same, Slope
from assay.lab.evidence import Evidence
from assay.lab.resample import resample_groups
from assay.lab.study import Study

__all__ = [
    "Better",
    "Bound",
    "Claim",
    "Evidence",
    "Gate",
    "NotWorse",
    "Ratio",
    "Same",
    "Slope",
    "Study",
    "resample_groups",
]
