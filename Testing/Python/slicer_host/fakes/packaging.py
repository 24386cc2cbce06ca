"""Stands in for `slicer.packaging`: knows what is missing, and never installs."""

import importlib.metadata

from packaging.requirements import Requirement


def load_requirements(path):
    with open(path, encoding="utf-8") as file:
        lines = [line.split("#")[0].strip() for line in file]
    return [Requirement(line) for line in lines if line]


def pip_check(requirements):
    requirements = [requirements] if isinstance(requirements, Requirement | str) else requirements
    for requirement in (Requirement(str(r)) for r in requirements):
        try:
            if not requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True):
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def pip_install(requirements, **_options):
    raise RuntimeError(f"The test host does not install {requirements}")
