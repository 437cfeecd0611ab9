"""Types of command line arguments; also for commands that need no ROS."""

import argparse
import math

MAX_FIELD_OF_VIEW_DEG = 175.0


def size_wh(text: str) -> tuple[int, int]:
    """Return width and height of an argument such as ``640x480``."""
    width, _, height = text.lower().partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 640x480')
    return int(width), int(height)


def positive_number(text: str) -> float:
    """Return an argument that is a number above 0."""
    value = _number(text)
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
    return value


def whole_number(text: str) -> int:
    """Return an argument that is a whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of 1 or more')
    return int(text)


def fraction(text: str) -> float:
    """Return an argument that is a number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number between 0 and 1')
    return value


def field_of_view_deg(text: str) -> float:
    """Return a horizontal field of view in degrees, 0 for a camera without calibration."""
    value = _number(text)
    if not 0 <= value <= MAX_FIELD_OF_VIEW_DEG:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a field of view of a pinhole camera; expected 0 to '
            f'{MAX_FIELD_OF_VIEW_DEG:g} degrees, 0 for no calibration'
        )
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
