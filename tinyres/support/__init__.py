"""What stays out of the reader's way: checks of arguments, with their messages, and files written whole."""
