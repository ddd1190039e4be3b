"""Lets `python setup.py` and old tools install; everything is in pyproject.toml."""

from setuptools import setup

setup()
