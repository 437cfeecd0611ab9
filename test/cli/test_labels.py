import pytest
import yaml

from panoptic_ros import cli


def test_of_a_model(tiny_model, capsys):
    assert cli.main(['labels', 'hydra', str(tiny_model)]) == 0
    of_model = capsys.readouterr().out
    assert cli.main(['labels', 'hydra', 'cityscapes']) == 0
    assert capsys.readouterr().out == of_model


def test_of_a_file(tmp_path, capsys):
    path = tmp_path / 'mine.yaml'
    path.write_text(
        'classes:\n'
        '- {name: floor, category_id: 1, thing: false, color: [1, 2, 3], roles: [walkable]}\n'
        '- {name: "cup, full", category_id: 2, thing: true, color: [4, 5, 6]}\n'
    )
    assert cli.main(['labels', 'panoptic-mapping', str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        'InstanceID,ClassID,PanopticID,R,G,B,Name,Size',
        '65536,0,0,1,2,3,floor,M',
        '131073,1,1,4,5,6,cup  full,M',
    ]
    assert len(lines) == 1 + 1 + 1000

    assert cli.main(['labels', 'nav2', str(path)]) == 0
    camera = yaml.safe_load(capsys.readouterr().out)['semantic_segmentation_layer']['camera']
    assert camera['class_types'] == ['traversable', 'obstacle']  # nothing that moves: no such type
    assert camera['traversable']['classes'] == ['floor']
    assert camera['obstacle']['classes'] == ['cup, full']


def test_unknown_name(capsys):
    assert cli.main(['labels', 'nav2', 'nothing']) == 2
    assert "no label set is called 'nothing'" in capsys.readouterr().err


def test_unknown_format():
    with pytest.raises(SystemExit, match='2'):
        cli.main(['labels', 'ros3', 'cityscapes'])
