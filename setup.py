"""Install cyborg; every name, version and requirement is read from settings.ini."""

import shlex
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


sys.path.insert(0, str(here))
from cyborg.docstrings import written  # noqa: E402 - of this folder; it needs nothing installed


class Complete(build_py):
    """The build of a wheel: notebooks to use and study files come into the package, and what the
    comments beside parameters say into its docstrings.

    An installation with -e finds the ones in nbs/, and makes the others when it imports a module.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            return
        source = here / settings["nbs_path"]
        target = Path(self.build_lib) / settings["lib_path"] / "_notebooks"
        for path in (*source.glob("*.ipynb"), *source.glob("studies/*.yaml")):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        for path in target.parent.rglob("*.py"):
            path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


setup(
    cmdclass={"build_py": Complete},
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    keywords=settings["keywords"].split(),
    author=settings["author"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=f">={settings['min_python']}",
    # With the root spelt out, pip install -e adds this folder to sys.path. Otherwise it adds an
    # import hook, to which a folder named cyborg wherever papermill is started is preferred.
    package_dir={"": "."},
    packages=find_packages(include=[settings["lib_path"], settings["lib_path"] + ".*"]),
    package_data={settings["lib_path"]: ["static/*", "static/workbench/*"]},
    install_requires=settings["requirements"].split(),
    extras_require={
        key.removesuffix("_requirements"): value.split()
        for key, value in settings.items()
        if key.endswith("_requirements")
    },
    entry_points={"console_scripts": shlex.split(settings["console_scripts"])},
)
