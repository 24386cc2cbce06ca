"""The inference benchmark: our systems beside stock nnU-Net on the same CT, checkpoint and machine, in one run.

    python Testing/Benchmarks/benchmark.py --output FOLDER

Every measurement is a process of its own (`child`), started one after another by `run`, which keeps what each of them
says in `FOLDER/measurements.jsonl` at once; a second run does only what is missing. `tasks` says what is measured,
`cases` and `networks` make CTs and checkpoints, `stock` and `ours` are the systems, `interactive` is measured beside
them; `report` makes tables. `gpu` checks a machine with a GPU.
"""
