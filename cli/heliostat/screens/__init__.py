"""What is shown in answer: a table or a sentence a file."""
