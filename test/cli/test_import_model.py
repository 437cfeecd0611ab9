"""``panoptic import``: its arguments, and what it says where something is missing."""

import pytest

pytest.importorskip('torch', reason='extra import')
pytest.importorskip('safetensors', reason='extra import')

from panoptic_ros.cli import main


def test_what_is_no_checkpoint_is_an_error_of_the_user(tmp_path, capsys):
    assert main(['import', str(tmp_path), '--out', str(tmp_path / 'model')]) == 2
    assert 'has no config.json' in capsys.readouterr().err
