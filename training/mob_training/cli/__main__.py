"""`python -m mob_training.cli`."""

from mob_training.cli import main

main()
