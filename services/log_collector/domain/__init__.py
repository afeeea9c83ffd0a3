"""What a log stream is and which rules its records keep; no input or output."""
