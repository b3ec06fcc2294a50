"""A study on paper."""

from cyborg.front import of_wing

__getattr__ = of_wing(__name__, "tables", "printed", "differences", "panels", "limits", "frozen", "export", "page")
