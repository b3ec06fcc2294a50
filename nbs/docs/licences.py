"""Under which terms everything stands that the project needs or shows."""

import re
from importlib import metadata
from typing import NamedTuple


class Licensed(NamedTuple):
    "An installed package."

    name: str
    version: str
    licence: str
    wanted_by: str  # the extra, or empty for all that every installation has


def licence_of(about: metadata.PackageMetadata) -> str:
    "The licence that a package states: its SPDX expression, its classifier, or its own words."
    if about.get("License-Expression"):
        return about["License-Expression"]
    told = [c for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
    names = [c.split("::")[-1].strip() for c in told if not c.endswith("OSI Approved")]
    words = (about.get("License") or "").strip().split("\n")[0]
    return ", ".join(names) or words[:60] or "not stated"


def _requirements(name: str, extras: set[str]) -> list[tuple[str, str]]:
    "Requirements of an installed package: name, and the extra that asks for it."
    from packaging.requirements import Requirement

    found = []
    for line in metadata.requires(name) or []:
        one = Requirement(line)
        for extra in ("", *sorted(extras)):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                found.append((one, extra))
                break
    return found


def licensed_packages(name: str = "cyborg") -> list[Licensed]:
    "All that an installation with every extra brings and that is installed here, by name."
    extras = set(metadata.metadata(name).get_all("Provides-Extra") or [])
    waiting = [(one, extra) for one, extra in _requirements(name, extras)]
    found = {}
    while waiting:
        one, extra = waiting.pop(0)
        key = re.sub(r"[-_.]+", "-", one.name).lower()
        if key in found and (not found[key].wanted_by or extra):
            continue
        try:
            about = metadata.metadata(one.name)
        except metadata.PackageNotFoundError:
            continue
        found[key] = Licensed(about["Name"], about["Version"], licence_of(about), extra)
        waiting += [(more, extra) for more, _ in _requirements(one.name, set(one.extras))]
    return sorted(found.values(), key=lambda one: one.name.lower())


def licences_table() -> str:
    "The packages as rows of a Markdown table."
    rows = [
        f"| {p.name} | {p.version} | {p.licence.replace('|', '/')} | {p.wanted_by} |"
        for p in licensed_packages()
    ]
    return "\n".join(rows)
