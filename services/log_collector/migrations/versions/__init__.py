"""One file a step, in the order of their numbers; `pre` runs before the code, `post` after it."""
