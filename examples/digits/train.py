"""Fit a classifier on the handwritten digits that scikit-learn ships.

What the platform gives: `$MODELYARD_OUTPUTS`, a folder for what is to be kept, and
`$MODELYARD_PROGRESS`, a file for one JSON object a line about how far the job is. Both are optional,
so that this runs on a laptop as it is. The split is `holdout.py`'s: what is held out is never seen.
"""

import json
import os
import sys
from pathlib import Path

import joblib
from holdout import split
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

EPOCHS = 20
CLASSES = list(range(10))


def report(fraction: float, message: str, **metrics: float) -> None:
    """Print progress, and hand it to the platform if there is one."""
    values = " ".join(f"{name}={value:.4f}" for name, value in metrics.items())
    print(f"{message} {values}".rstrip())
    progress = os.environ.get("MODELYARD_PROGRESS")
    if progress:
        with Path(progress).open("a") as lines:
            lines.write(json.dumps({"fraction": fraction, "message": message, "metrics": metrics}))
            lines.write("\n")


def main() -> int:
    """Train, keep the model, return the exit code."""
    train_x, train_y, _, _ = split()
    fitted, checked = slice(0, len(train_x) * 9 // 10), slice(len(train_x) * 9 // 10, None)
    scaler = StandardScaler().fit(train_x[fitted])
    classifier = SGDClassifier(loss="log_loss", alpha=1e-3, random_state=0)
    for epoch in range(1, EPOCHS + 1):
        classifier.partial_fit(scaler.transform(train_x[fitted]), train_y[fitted], classes=CLASSES)
        scores = classifier.predict_proba(scaler.transform(train_x[checked]))
        report(
            epoch / EPOCHS,
            f"epoch {epoch} of {EPOCHS}",
            loss=float(log_loss(train_y[checked], scores, labels=CLASSES)),
            accuracy=float(accuracy_score(train_y[checked], scores.argmax(axis=1))),
        )
    folder = Path(os.environ.get("MODELYARD_OUTPUTS", "outputs"))
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(make_pipeline(scaler, classifier), folder / "model.joblib")
    print(f"kept {(folder / 'model.joblib').stat().st_size} bytes as model.joblib")
    return 0


if __name__ == "__main__":
    sys.exit(main())
