import argparse
from collections.abc import Callable

import pytest

from panoptic_ros.ros.arguments import field_of_view_deg, fraction, size_wh, whole_number


def test_fields_of_view() -> None:
    assert [field_of_view_deg(text) for text in ('0', '60', '174.5')] == [0.0, 60.0, 174.5]


@pytest.mark.parametrize('text', ['180', '-1', 'nan', 'wide'])
def test_a_field_of_view_that_no_pinhole_camera_has(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match='not a field of view of a pinhole'):
        field_of_view_deg(text)


def test_sizes() -> None:
    assert size_wh('640x480') == (640, 480)
    assert size_wh('64X32') == (64, 32)


@pytest.mark.parametrize(
    ('read', 'text', 'words'),
    [
        *((size_wh, text, 'a size such as') for text in ('640', '640x', '0x4', 'axb', '1x2x3')),
        *((whole_number, text, 'a whole number of 1') for text in ('0', '-1', '1.5', 'two')),
        *((fraction, text, 'a number between 0 and 1') for text in ('1.1', '-0.1', 'nan', 'half')),
    ],
)
def test_what_is_refused(read: Callable[[str], object], text: str, words: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not {words}"):
        read(text)
