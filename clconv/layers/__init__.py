"""Layers with parameters, with PuzzleLib's interface."""
