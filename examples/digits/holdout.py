"""The split of the digits into those to train on and those that the training never sees.

Run as a program it prints an Open Inference Protocol v2 request for the held-out digits, with their
true labels under the key `labels` of `parameters`, which a model server passes over.
"""

import json
import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HELD_OUT = 0.2


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return train x (n, 64), train y (n,), held-out x, held-out y; always the same."""
    digits = load_digits()
    train_x, held_x, train_y, held_y = train_test_split(
        digits.data, digits.target, test_size=HELD_OUT, random_state=0, stratify=digits.target
    )
    return train_x, train_y, held_x, held_y


def request() -> dict[str, object]:
    """Return the request body."""
    _, _, held_x, held_y = split()
    return {
        "parameters": {"labels": held_y.tolist()},
        "inputs": [
            {
                "name": "digits",
                "shape": list(held_x.shape),
                "datatype": "FP64",
                "data": held_x.ravel().tolist(),
            }
        ],
    }


if __name__ == "__main__":
    json.dump(request(), sys.stdout)
