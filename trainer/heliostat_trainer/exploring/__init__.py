"""What the server is asked to explore, what is kept of it, and how well it ranks."""
