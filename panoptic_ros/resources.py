"""Find the files that travel with the package: ``models/``, ``config/`` and ``launch/``.

One rule serves a source checkout, ``pip install`` and ``colcon build`` alike: the resources lie
beside ``package.xml``, which is either in a folder above this file (checkout, or colcon's
``--symlink-install``) or in ``share/panoptic_ros`` under the prefix above this file.
"""

from functools import cache
from pathlib import Path


@cache
def share_dir() -> Path:
    """Return the folder that holds ``package.xml``, ``models/``, ``config/`` and ``launch/``.

    Raises FileNotFoundError if the package was copied without its resources.
    """
    here = Path(__file__).resolve()
    for parent in here.parents:
        if (parent / 'package.xml').is_file() and (parent / 'panoptic_ros').is_dir():
            return parent
        installed = parent / 'share' / 'panoptic_ros'
        if (installed / 'package.xml').is_file():
            return installed
    raise FileNotFoundError(
        f'the resources of panoptic_ros (models, config) are not above {here.parent}: expected '
        'package.xml in a parent folder or PREFIX/share/panoptic_ros; reinstall the package'
    )


def resource(*parts: str) -> Path:
    """Return the path of one resource, for example ``resource('config', 'labels')``."""
    return share_dir().joinpath(*parts)
