"""What runs are worth: intervals, error rates, audit, robustness."""

from cyborg.front import of_wing

__getattr__ = of_wing(__name__, "corners", "auc", "statistics", "bootstrap", "errors", "audit", "measures", "compare", "robustness")
