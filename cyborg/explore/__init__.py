"""Runs on the screen: maps, pictures, curves, scores."""

from cyborg.front import of_wing

__getattr__ = of_wing(__name__, "views", "tiles", "maps", "picture", "curves", "studies", "scoring")
