"""The reader's review of a prediction: verdicts, edits, sign-off, and their record."""
