"""Training: the loop, a run's folder, progress, curves, signals, a trial on a GPU. Read loop.py first, and
README.md for what a run leaves behind."""
from .checkpoint import Checkpoint, load, load_checkpoint, save, save_checkpoint
from .curves import draw_curves
from .loop import evaluate, loss_and_error, residual_ratios, train, training_step
from .predict import accuracy, predict
from .run_folder import Run, read_metrics

__all__ = ["Checkpoint", "Run", "accuracy", "draw_curves", "evaluate", "load", "load_checkpoint",
           "loss_and_error", "predict", "read_metrics", "residual_ratios", "save", "save_checkpoint", "train",
           "training_step"]
