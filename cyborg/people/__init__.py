"""Who marked what: studies of people, stores, formats, maps."""

from cyborg.front import of_wing

__getattr__ = of_wing(__name__, "formats", "gaze", "tables", "store", "annotations", "exchange", "ceiling", "crowd", "server", "answers", "analysis", "granularity", "brush")
