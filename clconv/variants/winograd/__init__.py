"""For CPUs, two or three taps: tiles of outputs by Winograd's transforms, products of channels."""
