"""``panoptic gpu-report MODEL``: measure every GPU engine that runs here, without ROS."""

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

from panoptic_ros.cli.engine.benchmark import (
    add_measurement_arguments,
    check_measurement_arguments,
    machine,
    measure_engine,
    write_json,
)
from panoptic_ros.engines import open_engine, unavailable_gpu_engines
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument('model', nargs='?', default='street-lite', help='(default: %(default)s)')
    add_measurement_arguments(parser)
    parser.add_argument('--out', type=Path, default=Path('out/gpu'), help='(default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Write ``report.md`` and ``report.json``; raises EngineError if no GPU engine runs here."""
    check_measurement_arguments(args)
    why_not = unavailable_gpu_engines()
    usable = [name for name, why in why_not.items() if not why]
    if not usable:
        raise EngineError(
            'no engine can use a GPU here: '
            + '; '.join(f'{name}: {why}' for name, why in why_not.items())
        )
    model = Model.load(args.model)
    results, failed = [], {}
    for name in usable:
        try:
            with closing(open_engine(model, name)) as engine:
                if engine.description.is_gpu:
                    results.append(measure_engine(model, engine, args))
                else:
                    failed[name] = f'it runs on {engine.description}'
        except EngineError as error:
            failed[name] = str(error)
    here = machine()
    content = {'engines': results, 'failed': failed, 'not_available': why_not, **here}
    write_json(content, args.out / 'report.json')
    report = args.out / 'report.md'
    report.write_text(as_markdown(model, results, failed, here), encoding='utf-8')
    print(report)
    return 2 if failed else 0


def as_markdown(
    model: Model, results: list[dict[str, Any]], failed: dict[str, str], here: dict[str, Any]
) -> str:
    """Return the report as a section for ``doc/benchmarks.md``."""
    width, height = model.card.size_wh
    columns = {
        'engine p50 ms': lambda row: f'{row["engine_ms"]["p50"]:.3f}',
        'engine p99 ms': lambda row: f'{row["engine_ms"]["p99"]:.3f}',
        'path p50 ms': lambda row: f'{row["path_ms"]["p50"]:.3f}',
        'path p99 ms': lambda row: f'{row["path_ms"]["p99"]:.3f}',
        'images/s': lambda row: f'{row["images_per_second"]:.1f}',
        'bytes copied': lambda row: str(row['bytes_copied']),
        'memory growth, bytes': lambda row: _or_not_measured(row['device_memory_growth_bytes']),
        'PQ against float32': lambda row: _or_not_measured(row['PQ_against_float32']),
    }
    lines = [
        f'# GPU engines, {model.card.name} at {width}x{height}',
        '',
        f'GPU: {_listed(here["gpu"])}. State: {_listed(here["gpu_state"])}. Power mode: '
        f'{here["power_mode"] or "not reported"}. {here["date"]}.',
        '',
        f'| engine | frames | {" | ".join(columns)} |',
        '| --- ' * (len(columns) + 2) + '|',
    ]
    for row in results:
        cells = (row['description'], str(row['runs']), *(cell(row) for cell in columns.values()))
        lines.append(f'| {" | ".join(cells)} |')
    lines.extend(f'\n{name} failed: {why}' for name, why in failed.items())
    return '\n'.join(lines) + '\n'


def _or_not_measured(value: float | None) -> str:
    if value is None:
        return 'not measured'
    return f'{value:.2f}' if isinstance(value, float) else str(value)


def _listed(fields: dict[str, str]) -> str:
    return ', '.join(f'{name} {value}' for name, value in fields.items()) or 'not reported'
