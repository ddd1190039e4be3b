"""The list of faults that `tools/check/mutants.py` plants."""

from __future__ import annotations

import shlex

import mutants
import pytest
from mutants_list import FAULTS


def test_the_list_fits_the_tree():
    """Each fault's text occurs once in its file, and the tests that should see it are there."""
    mutants.check(FAULTS)
    files = {shlex.split(fault.tests)[0].partition("::")[0] for fault in FAULTS}
    assert not {name for name in files if not (mutants.ROOT / name).is_file()}
    assert len(FAULTS) > 400


def test_a_text_that_is_not_there():
    gone = FAULTS[0]._replace(text="nowhere in this file")
    with pytest.raises(mutants.ListError, match="0 times, expected once"):
        mutants.check([gone])
