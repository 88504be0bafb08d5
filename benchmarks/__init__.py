"""What a user would pick instead, measured beside ours in one run."""
