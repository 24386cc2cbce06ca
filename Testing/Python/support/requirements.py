"""Which packages the worker requires, and which Slicer has."""

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support import MODULE_FOLDER

SLICERS_PACKAGES = {
    *("numpy", "scipy", "simpleitk", "pydicom", "highdicom", "pyjpegls", "dicomweb-client", "pillow", "requests"),
    *("packaging", "setuptools", "pip", "wheel", "typing-extensions", "certifi", "idna", "urllib3", "pyparsing"),
}


FILES = ("", "-export", "-dicom", "-openvino", "-pytorch")


def requirements(*which: str) -> dict[str, str]:
    """Version wanted of each package of requirements.txt and its likes."""
    text = "\n".join(
        (MODULE_FOLDER / "Resources" / f"requirements{name}.txt").read_text(encoding="utf-8") for name in which or FILES
    )
    wanted = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    named = {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in wanted}
    assert len(named) == len(wanted)  # each in one place
    return named
