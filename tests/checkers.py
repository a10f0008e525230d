"""Contract checks that every implementation must pass; tests/core/test_checkers.py shows that they can fail."""

import json


def check_save_and_restore(make, identity):
    """A loader saved at any position and restored into a new one delivers exactly what was left, and then goes on.

    The loader is saved before every batch of its first epoch and at the epoch's end, each time after leaving the
    loop early as a crash would; the state goes through JSON. Restored into a fresh loader, and into one that has
    moved elsewhere, it must yield the rest of the epoch, then the next epoch, and save states of the same shape.

    Args:
        make: returns a new loader of a finite epoch, always the same; a loader iterates over batches and has
            `state_dict` and `load_state_dict`.
        identity: batch → a value that is equal for equal batches only.
    """
    loader = make()
    fresh_keys = set(loader.state_dict())
    first, second = [identity(batch) for batch in loader], [identity(batch) for batch in loader]
    assert first, "the loader must deliver something, or nothing is checked"
    assert len(set(first + second)) == len(first + second), "an epoch repeats episodes"
    for stop in range(len(first) + 1):
        state = _state_after(make(), stop)
        assert set(state) == fresh_keys, f"after {stop} batches the state has other fields"
        rest = first[stop:] or second  # at the end of an epoch the next one begins
        for target in (make(), _moved(make())):
            before = json.dumps(state)
            target.load_state_dict(state)
            assert json.dumps(target.state_dict()) == before, f"the state after {stop} batches is not restored"
            assert [identity(batch) for batch in target] == rest, f"wrong remainder after {stop} batches"
            if rest is not second:
                assert [identity(batch) for batch in target] == second, f"wrong next epoch after {stop} batches"
            assert json.dumps(state) == before, "restoring changed the state it was given"


def _state_after(loader, stop):
    """The state after `stop` batches, as it comes back from a file."""
    if stop:
        for number, _ in enumerate(loader, start=1):
            if number == stop:
                break
    return json.loads(json.dumps(loader.state_dict()))


def _moved(loader):
    """A loader that has delivered one batch."""
    next(iter(loader))
    return loader
