"""Expose the trainers to stock nnU-Net: `export nnUNet_extTrainer=/path/to/training/nnunet_trainers`.

nnU-Net imports the files of that folder without keeping them, so the trainers themselves are in `mob_training`.
"""

from mob_training.training.budget import BudgetTrainer
from mob_training.training.deterministic import DeterministicTrainer
from mob_training.training.trainer import FineTuningTrainer

__all__ = ["BudgetTrainer", "DeterministicTrainer", "FineTuningTrainer"]
