"""``panoptic import``: its arguments, and what it says where something is missing."""

import pytest

pytest.importorskip('torch', reason='extra import')
pytest.importorskip('safetensors', reason='extra import')

from panoptic_ros.cli import main
from panoptic_ros.cli.import_model import parse_size
from panoptic_ros.errors import ModelError


def test_sizes_are_read():
    assert parse_size('640x480') == (640, 480)
    assert parse_size('64X32') == (64, 32)
    for wrong in ('640', '640x', '0x4', 'axb', '640x480x3'):
        with pytest.raises(ModelError, match=f"--size '{wrong}' is not usable; expected WIDTH"):
            parse_size(wrong)


def test_what_is_no_checkpoint_is_an_error_of_the_user(tmp_path, capsys):
    assert main(['import', str(tmp_path), '--out', str(tmp_path / 'model')]) == 2
    assert 'has no config.json' in capsys.readouterr().err
