"""What front ends see of each other, and their supervisor of them."""

import asyncio
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from app.processes.supervision.board import Board, Place, Silence
from app.processes.supervision.spawn import spawn


def tell(place: Place, pipe: Connection) -> None:
    place.tell(7)
    pipe.send(place.least())


def test_a_child_shares_the_board_of_its_supervisor() -> None:
    board = Board(2)
    board.connections[0] = 3
    ours, theirs = Pipe()
    process = spawn("child", tell, Place(board, 1), theirs)
    assert ours.recv() == 3
    process.join()
    assert list(board.connections) == [3, 7]


def test_processes_that_accept_nothing_are_not_the_ones_with_the_fewest_connections() -> None:
    board = Board(3)
    board.connections[0] = 5
    board.clear(1)
    Place(board, 2).leave()
    assert Place(board, 0).least() == 5


def test_a_process_is_silent_from_its_last_beat_on() -> None:
    board = Board(2)
    silence = Silence(board)
    board.beats[0] = board.beats[1] = 1
    assert silence.times() == [0, 0]
    board.beats[0] += 1
    assert silence.times() == [0, 1]
    assert silence.times() == [1, 2]
    board.beats[1] += 1
    assert silence.times() == [2, 0]


def test_the_silence_of_a_process_is_not_that_of_its_successor() -> None:
    board = Board(1)
    silence = Silence(board)
    board.beats[0] = 1
    silence.times()
    assert silence.times() == [1]
    silence.forget(0)
    assert board.beats[0] == 0
    assert silence.times() == [1]  # it is silent from its start on, too


def test_an_event_loop_that_comes_round_beats() -> None:
    async def main() -> None:
        board = Board(1)
        beating = asyncio.create_task(Place(board, 0).beat())
        await asyncio.sleep(0)
        assert board.beats[0] == 1
        beating.cancel()

    asyncio.run(main())
