"""The applications: one package each, and in `common` the functions they share."""

from importlib import metadata


def version() -> str:
    """Returns the name and the version of the package, such as `keras-apps 1.2.3`."""
    return f"keras-apps {metadata.version('keras-apps')}"
