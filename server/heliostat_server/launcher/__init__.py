"""Starting the server's processes and keeping them running."""
