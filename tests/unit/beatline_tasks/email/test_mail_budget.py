"""Memory for mail is lent in order, and all of it comes back."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from beatline_tasks.email.budget import Budget
from support.waiting import wait_until


def test_what_is_not_there_is_not_lent() -> None:
    budget = Budget(100)
    with budget.lent(60, 0) as first, budget.lent(40, 0) as second, budget.lent(1, 0) as third:
        assert (first, second, third) == (True, True, False)
    with budget.lent(100, 0) as all_of_it:
        assert all_of_it


def test_more_than_there_is_goes_alone() -> None:
    budget = Budget(100)
    with budget.lent(1000, 0) as large, budget.lent(0, 0) as nothing, budget.lent(1, 0) as small:
        assert (large, nothing, small) == (True, True, False)
    with budget.lent(1, 0), budget.lent(1000, 0) as large:
        assert not large


def test_a_large_one_is_not_overtaken() -> None:
    budget, order = Budget(100), list[str]()

    def borrow(name: str, wanted: int) -> None:
        with budget.lent(wanted, 10) as got:
            assert got
            order.append(name)

    with ExitStack() as held:
        held.enter_context(budget.lent(50, 0))
        large = threading.Thread(target=borrow, args=("large", 80))
        large.start()
        wait_until(lambda: budget.waiting == 1, 5, what="the large one waits")
        small = threading.Thread(target=borrow, args=("small", 40))
        small.start()
        wait_until(lambda: budget.waiting == 2, 5, what="the small one waits behind it")
        assert order == []
    for thread in (large, small):
        thread.join()
    assert order == ["large", "small"]
