import multiprocessing
import os

import pytest

from pointsuite.engine.command import Parser
from pointsuite.engine.errors import UsageError
from pointsuite.engine.workers import add_workers, run_workers


def square(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number}.txt: found {number}, wanted a number from 0")
    return number * number


def leave(number: int) -> int:
    os._exit(1)


@pytest.mark.parametrize("workers", [1, 3])
def test_results_and_errors_come_in_order(workers):
    assert list(run_workers(square, range(9), workers)) == [square(i) for i in range(9)]
    assert list(run_workers(square, [], workers)) == []
    with pytest.raises(ValueError, match=r"^-3\.txt: found -3, wanted"):
        list(run_workers(square, [0, 1, 2, -3, 4, -5, -6, 7], workers))


def in_a_daemon(pipe) -> None:
    pipe.send(list(run_workers(square, range(9), 3)))


def test_in_a_daemon():
    """Which may have no children, as workers of a loader are."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=in_a_daemon, args=(there,), daemon=True)
    process.start()
    assert here.poll(60) and here.recv() == [square(i) for i in range(9)]
    process.join()


def test_process_that_is_ended(capsys):
    with pytest.raises(UsageError, match="--workers 2: a process was ended from outside.*wanted fewer"):
        list(run_workers(leave, [1, 2], 2))


def test_option(capsys):
    parser = Parser()
    add_workers(parser)
    assert parser.parse_args([]).workers == os.cpu_count()
    with pytest.raises(SystemExit):
        parser.parse_args(["--workers", "0"])
    assert "found '0', wanted a whole number from 1" in capsys.readouterr().err
