"""Training: the loop, a run's folder, progress, curves, signals, a trial on a GPU. Read loop.py first."""
from .curves import draw_curves
from .loop import evaluate, loss_and_error, train, training_step
from .predict import accuracy, predict
from .run_folder import Checkpoint, Run, load_checkpoint, read_metrics, save_checkpoint

__all__ = ["Checkpoint", "Run", "accuracy", "draw_curves", "evaluate", "load_checkpoint", "loss_and_error",
           "predict", "read_metrics", "save_checkpoint", "train", "training_step"]
