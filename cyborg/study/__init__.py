"""Many runs: the file, the grid, the work, the tables."""

from cyborg.front import of_wing

__getattr__ = of_wing(__name__, "runner", "file", "grid", "collect", "run")
