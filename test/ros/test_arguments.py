import argparse

import pytest

from panoptic_ros.ros.arguments import field_of_view_deg


def test_fields_of_view() -> None:
    assert [field_of_view_deg(text) for text in ('0', '60', '174.5')] == [0.0, 60.0, 174.5]


@pytest.mark.parametrize('text', ['180', '-1', 'nan', 'wide'])
def test_a_field_of_view_that_no_pinhole_camera_has(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match='not a field of view of a pinhole'):
        field_of_view_deg(text)
