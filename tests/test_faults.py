"""What `python -m bench faults` does often is done here a few times."""

import pytest

from bench import faults


@pytest.mark.slow
@pytest.mark.parametrize("question", faults.QUESTIONS, ids=lambda question: question.__name__)
def test_nothing_is_lost(tmp_path, question):
    outcomes = question(tmp_path, faults.QUICK)
    if not outcomes:
        pytest.skip("only root can make a file system here")
    for outcome in outcomes:
        assert outcome.times > 0 and outcome.failures == [], outcome.fault
