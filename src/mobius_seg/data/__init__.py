"""Pictures, names and scenes."""
