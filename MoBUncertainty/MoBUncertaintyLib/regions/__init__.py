"""From a prediction to a ranked list of doubtful regions."""
