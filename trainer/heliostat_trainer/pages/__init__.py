"""What HTML pages are made of: figures, pictures, templates."""
