"""The training loop and what it stores."""
