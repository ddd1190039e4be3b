"""Layers with parameters, PuzzleLib's way."""
