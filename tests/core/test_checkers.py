"""The checkers and helpers must be able to fail."""

import numpy as np
import pytest
from checkers import check_save_and_restore
from helpers import chi_square_excess, coded_source, decode


class Counter:
    """A correct loader of three numbers an epoch; `break_` breaks it in one way."""

    def __init__(self, break_=None):
        self.break_ = break_
        self.position = 0

    def __iter__(self):
        end = (self.position // 3 + 1) * 3
        while self.position < end:
            self.position += 1
            yield (self.position - 1) % 3 if self.break_ == "epochs repeat" else self.position - 1

    def state_dict(self):
        state = {"position": self.position - (self.break_ == "saves one too few" and self.position == 2)}
        return state | ({"extra": 1} if self.break_ == "state grows" and self.position else {})

    def load_state_dict(self, state):
        if self.break_ == "ignores the state":
            return
        shift = self.break_ == "restores one too far"
        self.position = state["position"] + shift
        if self.break_ == "changes the state":
            state["position"] = 0


def test_a_correct_loader_passes():
    check_save_and_restore(Counter, identity=int)


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        ("ignores the state", "is not restored"),
        ("restores one too far", "is not restored"),
        ("saves one too few", "wrong remainder"),
        ("epochs repeat", "repeats episodes"),
        ("state grows", "other fields"),
        ("changes the state", "changed the state"),
    ],
)
def test_a_broken_loader_fails(break_, message):
    with pytest.raises(AssertionError, match=message):
        check_save_and_restore(lambda: Counter(break_), identity=int)


def test_an_empty_loader_fails():
    class Empty(Counter):
        def __iter__(self):
            return iter(())

    with pytest.raises(AssertionError, match="must deliver something"):
        check_save_and_restore(Empty, identity=int)


def test_chi_square_accepts_uniform_and_rejects_skewed_counts():
    uniform = np.random.default_rng(0).multinomial(100_000, np.full(50, 0.02))
    assert chi_square_excess(uniform) < 5
    uniform[3] += 500  # one value a quarter too often
    assert chi_square_excess(uniform) > 5


def test_coded_examples_say_who_they_are():
    source = coded_source([3, 5])
    classes, examples = decode(source.examples.astype(np.float32) / np.float32(255))
    assert classes.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert examples.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    turns = [np.rot90(source.examples[0], k).tobytes() for k in range(4)]
    assert len(set(turns)) == 4
