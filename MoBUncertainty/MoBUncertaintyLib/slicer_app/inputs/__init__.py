"""What the user chooses beside a CT and a model: the volumes of further channels, labels, and further models."""
