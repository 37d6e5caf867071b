"""Compiled twins of the hot modules of ``vsync-core``; ``vsync.speedups`` decides whether they run.

Programs import nothing from here. Below ``vsync`` there is one extension module for each hot module
of the core, made by mypyc from the core's own sources; ``built.json`` says from which, by their
hashes.
"""
