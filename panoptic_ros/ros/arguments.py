"""Types of command line arguments shared by the tools around the node."""

import argparse

MAX_FIELD_OF_VIEW_DEG = 175.0


def size_wh(text: str) -> tuple[int, int]:
    """Return width and height of an argument such as ``640x480``."""
    width, _, height = text.partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 640x480')
    return int(width), int(height)


def positive_number(text: str) -> float:
    """Return an argument that is a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
    return value


def field_of_view_deg(text: str) -> float:
    """Return a horizontal field of view in degrees, 0 for a camera without calibration."""
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not 0 <= value <= MAX_FIELD_OF_VIEW_DEG:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a field of view of a pinhole camera; expected 0 to '
            f'{MAX_FIELD_OF_VIEW_DEG:g} degrees, 0 for no calibration'
        )
    return value
