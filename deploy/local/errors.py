"""What stops the local stack, in words for the person who started it."""


class StackError(Exception):
    """One sentence that says what is missing or broken, and what to install or do."""
