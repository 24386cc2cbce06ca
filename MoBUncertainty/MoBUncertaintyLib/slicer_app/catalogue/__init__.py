"""Find models: the dialog that lists a catalogue and installs from it."""
