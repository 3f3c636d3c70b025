"""How a study is declared, run and judged.

A study imports its declarations from here and nothing else of the lab:
`Study`, the claims, `Gate`, `Evidence` (for annotations) and `resample_groups`.
They are imported when first used, so that reading evidence need not wait for NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {"Evidence": "evidence", "Study": "study", "resample_groups": "resample"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"assay.lab.{_HOMES.get(name, 'claims')}"), name)
