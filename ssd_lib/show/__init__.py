"""What draws: figures, token strips, the explorer. Nothing that computes imports it."""
