"""From photographs and lists of others to a manifest."""

from cyborg.front import of_wing

__getattr__ = of_wing(__name__, "crop", "quality", "segmentation", "img2pose", "importers", "sources", "mentor")
