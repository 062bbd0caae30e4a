"""The commands of the command line. Slow imports happen inside the commands, so that others start quickly."""
