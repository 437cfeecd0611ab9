"""The model folder that every importer writes."""

from pathlib import Path

import pytest
from importing.conftest import import_small

from panoptic_ros.importing import request
from panoptic_ros.model import Model

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_a_float16_file_that_engines_would_refuse_is_left_out(tmp_path: Path, monkeypatch) -> None:
    checked = []

    def fault(outputs: dict, golden: dict, model: Model) -> str:
        checked.append((set(outputs), set(golden)))
        return 'classes differs by 0.2 (at most 0.05)'

    monkeypatch.setattr(request, 'output_fault', fault)
    imported = import_small('segformer', tmp_path)
    outputs, golden = checked[0]
    assert golden <= outputs
    assert len(checked) == 1
    model = Model.load(imported.model.folder)
    assert set(model.card.files) == {'float32'}
    assert not (model.folder / 'model.float16.onnx').exists()
    note = model.card.provenance['float16']
    assert note.startswith('left out: engines would refuse')
    assert '0.2 (at most 0.05)' in note
    assert any('left out' in line for line in imported.log)
