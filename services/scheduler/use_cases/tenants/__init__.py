"""What a suspension means for what runs."""
