"""What is asked for on the command line: a group of commands a file."""
