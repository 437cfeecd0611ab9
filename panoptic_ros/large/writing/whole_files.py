"""Files that appear under their name only when they are whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from panoptic_ros.errors import PanopticRosError, one_line


@contextmanager
def whole_file(path: Path, *errors: type[Exception]) -> Iterator[Path]:
    """Give a temporary path beside ``path``, which is renamed at the end.

    If the block raises, the temporary file is removed, and a file of an earlier run stays as it
    is. Raises PanopticRosError if the file system refuses: where the block raises OSError or one
    of ``errors``, those of the library that writes.
    """
    # The suffix stays, by which libraries choose the format.
    temporary = path.with_name(f'.partial-{path.name}')
    refusals: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        yield temporary
        temporary.replace(path)
    except refusals as error:
        reason = getattr(error, 'strerror', None) or error.__cause__ or error
        raise PanopticRosError(
            f'cannot write {path} ({one_line(reason)}); free some space or choose '
            'another place with --out'
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
