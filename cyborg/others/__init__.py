"""Systems of other people."""

from cyborg.front import of_wing

__getattr__ = of_wing(__name__, "quirks", "released", "attention", "cnndetection", "scorers", "frozen")
