"""The commands of `python -m clconv`, a module each with `main(argv)`: the exit status."""
