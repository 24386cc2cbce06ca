"""Shows the trainers to stock nnU-Net: `export nnUNet_extTrainer=/path/to/training/nnunet_trainers`.

nnU-Net imports every file of that folder and forgets it again, so the trainers themselves live in `mob_training`.
"""

from mob_training.training.trainer import DeterministicTrainer, FineTuningTrainer

__all__ = ["DeterministicTrainer", "FineTuningTrainer"]
