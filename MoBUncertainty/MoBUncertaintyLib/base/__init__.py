"""Files on disk, whatever they hold: names, hashes, locks, JSON, and writing that is whole or not at all."""
