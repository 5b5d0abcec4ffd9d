"""The clips of REDS and sets like it: clips.py finds and decodes them, windows.py cuts what a training sees."""
