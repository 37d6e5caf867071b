"""Compiled twins of the hot modules of ``vsync-core``; ``vsync.speedups`` decides whether they run.

Nothing here is imported by programs. ``compiled/`` has one extension module for each module that
``vsync_speedups.sources.HOT`` names, made by mypyc from the core's own sources, and ``built.json``
says from which, by their hashes.
"""
