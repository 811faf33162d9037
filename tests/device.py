"""A stand-in for a device: a Python that has a bundle's requirements and no more."""

import importlib.metadata
import shutil
import sysconfig
import venv
from pathlib import Path

from packaging.requirements import Requirement


def make_device(bundle, folder):
    """Copies a bundle, and makes a Python that has only its requirements.

    The packages are linked from this environment, so that no network is needed.

    Returns:
        The copy, and the path of the Python.
    """
    bundle = shutil.copytree(bundle, folder / "bundle")
    venv.create(folder / "python")
    site = sysconfig.get_path("purelib", "venv", {"base": str(folder / "python")})
    requirements = (bundle / "requirements.txt").read_text().split()
    for distribution in requirements_closure(requirements):
        tops = {Path(file).parts[0] for file in distribution.files} - {".."}
        for top in tops:
            link = Path(site) / top
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))
    return bundle, folder / "python/bin/python"


def requirements_closure(names):
    """The installed distributions that these requirements bring along."""
    found, waiting = {}, list(names)
    while waiting:
        requirement = Requirement(waiting.pop())
        wanted = requirement.marker is None or requirement.marker.evaluate(
            {"extra": ""}
        )
        if wanted and requirement.name not in found:
            distribution = importlib.metadata.distribution(requirement.name)
            assert distribution.version in requirement.specifier
            found[requirement.name] = distribution
            waiting += distribution.requires or []
    return found.values()
