"""Measure speed and memory beside stock nnU-Net: the options of what is in `inference`.

python Testing/Benchmarks/benchmark.py --output FOLDER
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from inference.tasks import BenchmarkSettings, parse_sizes, size_name
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
    parts: Annotated[str, typer.Option(help="What to measure.")] = ",".join(USUAL.parts),
    repeats: Annotated[
        int, typer.Option(min=1, max=1000, help="Runs of each measurement, after a first one to warm up.")
    ] = USUAL.repeats,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How often all systems take turns.")] = USUAL.rounds,
    samples: Annotated[int, typer.Option(min=1, max=10_000, help="Number of Monte Carlo samples (K).")] = USUAL.samples,
    limit: Annotated[
        float,
        typer.Option(
            min=0,
            max=1e6,
            help="Time limit of one measurement in seconds; beyond it fewer runs are made.",
        ),
    ] = USUAL.limit,
    device: Device = USUAL.device,
    engines: Annotated[
        str, typer.Option("--engine", help="What runs our network: auto, torch, openvino, or several of them.")
    ] = ",".join(USUAL.engines),
    precisions: Annotated[
        str, typer.Option("--precision", help="Of our network: auto, float32, bfloat16, float16, or several of them.")
    ] = ",".join(USUAL.precisions),
    gpu_check: Annotated[
        bool,
        typer.Option(
            "--gpu-check",
            help="Check instead, within 8 minutes, whether a GPU computes what the CPU does, how fast, and what "
            "happens when its memory runs out. Heeds --networks, --samples, --device and --threads.",
        ),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads. Default: what torch chooses.")
    ] = None,
) -> None:
    """Measure speed and memory beside stock nnU-Net, and write tables and plots."""
    with console.reporting(steps=True) as cancelled:
        from inference.run import run
        from MoBUncertaintyLib.regions.prediction import Progress

        if gpu_check:
            _check_gpu(output, _listed(networks), device, samples, threads, cancelled)
            return
        settings = BenchmarkSettings(
            networks=_listed(networks),
            sizes=parse_sizes(sizes),
            systems=_listed(systems),
            parts=_listed(parts),
            repeats=repeats,
            rounds=rounds,
            samples=samples,
            limit=limit,
            device=device,
            threads=threads,
            engines=_listed(engines),
            precisions=_listed(precisions),
        )
        with console.progress("Benchmark") as progress:
            done = run(output, settings, lambda *step: progress(Progress(*step)), cancelled)
        console.show_warnings(f"{each['what']}: {each['why']}" for each in done["failed"])
        typer.echo(f"{len(done['systems'])} systems measured; see {output / 'benchmark.md'}")


def _check_gpu(
    output: Path,
    networks: tuple[str, ...],
    device: str,
    samples: int,
    threads: int | None,
    cancelled: Callable[[], bool],
) -> None:
    from inference.gpu.check import run_check
    from MoBUncertaintyLib.regions.prediction import Progress

    with console.progress("GPU check") as progress:
        done = run_check(output, networks, device, samples, threads, lambda *step: progress(Progress(*step)), cancelled)
    bad = [row for row in done["rows"] if row["status"] != "ok"]
    console.show_warnings(f"{row['step']}, {row['what']}: {row['why']}" for row in bad)
    typer.echo(
        f"{done['counts']['ok']} of {len(done['rows'])} rows are as they should be; see {output / 'gpu-check.md'}"
    )
    if done["counts"]["failed"]:
        raise typer.Exit(console.UNEXPECTED)


def _listed(text: str) -> tuple[str, ...]:
    """Split at commas, and drop repeated words."""
    return tuple(dict.fromkeys(filter(None, (word.strip() for word in text.split(",")))))


if __name__ == "__main__":
    app()
