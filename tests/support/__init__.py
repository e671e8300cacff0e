"""Things that several tests make."""
