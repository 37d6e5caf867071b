"""The commands, one file each: a command reads its arguments, calls the library, renders."""
