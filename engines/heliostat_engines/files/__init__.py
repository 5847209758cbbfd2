"""Files and folders: written whole or not at all, read as people have them, and nobody else's removed."""
