"""Whether a machine's GPU computes what the CPU does, how fast, and with how much memory.

    python Testing/Benchmarks/benchmark.py --gpu-check --output FOLDER

`check` runs the steps one after another, each in a process of its own (`inference.child`), since a fault on a GPU ends
everything in its process; `rows` writes what a step finds, row by row. The steps are in `steps`: `paths` (one tile in
every number format) and `volumes` (whole predictions, and the ladder of steps that are taken when memory runs out).
`report` makes the table. Without a GPU everything runs on the CPU, smaller.
"""
