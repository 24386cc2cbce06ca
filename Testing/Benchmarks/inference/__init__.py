"""The inference benchmark: our systems beside stock nnU-Net on the same CT, checkpoint and machine, in one run.

    python Testing/Benchmarks/benchmark.py --output FOLDER

`run` starts each measurement in a process of its own (`child`), and keeps what it says in `FOLDER/measurements.jsonl`;
a second run does only what is missing. `tasks` says what is measured, `cases` and `networks` make CTs and checkpoints,
`stock` and `ours` are the systems, `report` makes tables.
"""
