"""Measure speed and memory beside stock nnU-Net: the options of what is in `inference`.

python Testing/Benchmarks/benchmark.py --output FOLDER
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inference.tasks import BenchmarkSettings, parse_size, size_name
from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.cli.options import Device

app = typer.Typer()
USUAL = BenchmarkSettings()


@app.command()
def benchmark(
    output: Annotated[Path, typer.Option(help="Folder for the report; measurements that are there already are kept.")],
    networks: Annotated[
        str, typer.Option(help="small (shipped), large (residual encoder L, random weights), or a model's path.")
    ] = ",".join(USUAL.networks),
    sizes: Annotated[str, typer.Option(help="Voxels of the CTs.")] = ",".join(map(size_name, USUAL.sizes)),
    systems: Annotated[str, typer.Option(help="a: stock nnU-Net; d: our Monte Carlo; e: exact.")] = ",".join(
        USUAL.systems
    ),
    repeats: Annotated[
        int, typer.Option(min=1, max=1000, help="Runs of each measurement, after a first one to warm up.")
    ] = USUAL.repeats,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How often all systems take turns.")] = USUAL.rounds,
    samples: Annotated[int, typer.Option(min=1, max=10_000, help="Number of Monte Carlo samples (K).")] = USUAL.samples,
    limit: Annotated[
        float, typer.Option(min=0, max=1e6, help="Seconds for one measurement; beyond them fewer runs are made.")
    ] = USUAL.limit,
    device: Device = USUAL.device,
    engines: Annotated[
        str, typer.Option("--engine", help="What runs our network: auto, torch, openvino, or several of them.")
    ] = ",".join(USUAL.engines),
    precisions: Annotated[
        str, typer.Option("--precision", help="Of our network: auto, float32, bfloat16, float16, or several of them.")
    ] = ",".join(USUAL.precisions),
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads. Default: what torch chooses.")
    ] = None,
) -> None:
    """Measure speed and memory beside stock nnU-Net, and write tables."""
    with console.reporting():
        from inference.run import run

        settings = BenchmarkSettings(
            networks=words(networks),
            sizes=tuple(map(parse_size, words(sizes))),
            systems=words(systems),
            repeats=repeats,
            rounds=rounds,
            samples=samples,
            limit=limit,
            device=device,
            threads=threads,
            engines=words(engines),
            precisions=words(precisions),
        )
        summary = run(output, settings)
        console.show_warnings(f"{failure['what']}: {failure['why']}" for failure in summary["failed"])
        typer.echo(f"{len(summary['systems'])} systems measured; see {output / 'benchmark.md'}")


def words(text: str) -> tuple[str, ...]:
    """Split at commas, and drop repeated words."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",")))


if __name__ == "__main__":
    app()
