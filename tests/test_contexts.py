"""Contexts of the core, no_grad() and kernel.plain(): objects used again, nested and in threads, and what
they decorate."""
from __future__ import annotations

import asyncio
import inspect
import threading

import numpy
import pytest

import tinyres as tr
from tinyres.kernel import _plain, plain
from tinyres.support.context import recording

ONES = numpy.ones(2, "float32")


def leaf() -> tr.Tensor:
    return tr.Tensor(ONES, requires_grad=True)


@pytest.mark.parametrize("make", [tr.no_grad, tr.kernel.plain])
def test_one_object_can_be_entered_again_and_within_itself(make):
    context = make()
    for _ in range(2):
        with context, context:
            pass
    with context:
        with context:
            assert not (leaf() * 2).requires_grad or make is not tr.no_grad
        assert not (leaf() * 2).requires_grad or make is not tr.no_grad
    assert (leaf() * 2).requires_grad


def test_one_object_in_two_threads_at_once():
    context, inside, outside = tr.no_grad(), threading.Barrier(2, timeout=60), []

    def work() -> None:
        with context:
            inside.wait()
            outside.append((leaf() * 2).requires_grad)
            inside.wait()
        outside.append((leaf() * 2).requires_grad)

    other = threading.Thread(target=work)
    other.start()
    work()
    other.join()
    assert sorted(outside) == [False, False, True, True]


def test_two_generators_that_take_turns_leave_recording_as_it_was():
    def steps():
        with tr.no_grad():
            yield
            yield recording.get()

    first, second = steps(), steps()
    next(first), next(second), first.close()
    assert next(second) is False
    second.close()
    assert recording.get()
    first = steps()
    next(first)
    with plain():
        first.close()
        assert recording.get() and _plain.get(), "two variables have nothing to do with each other"
    assert recording.get() and not _plain.get()


def decorated(decorate):
    @decorate
    def steps(x):
        """Doubles."""
        try:
            while True:
                x = x * 2
                sent = yield x
                x = x if sent is None else sent
        except KeyError:
            x = x * 2
            yield x
        finally:
            done.append((x * 2).requires_grad)
        return x * 2
    done: list[bool] = []
    return steps, done


@pytest.mark.parametrize("decorate", [tr.no_grad, tr.no_grad()])
def test_a_decorated_generator_records_nothing_and_its_user_does(decorate):
    steps, done = decorated(decorate)
    assert steps.__name__ == "steps" and steps.__doc__ == "Doubles." and inspect.isgeneratorfunction(steps)
    generator = steps(leaf())
    for result in (next(generator), generator.send(leaf()), next(generator), generator.throw(KeyError())):
        assert not result.requires_grad and (leaf() * 2).requires_grad and recording.get()
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert not end.value.value.requires_grad and end.value.value.data.tolist() == [16, 16] and done == [False]

    generator = steps(leaf())
    next(generator)
    generator.close()
    assert done == [False, False] and recording.get()
    with pytest.raises(ZeroDivisionError):
        steps(leaf()).throw(ZeroDivisionError())
    assert recording.get()


@pytest.mark.parametrize("decorate", [tr.no_grad, tr.no_grad()])
def test_a_decorated_coroutine_records_nothing(decorate):
    @decorate
    async def evaluate(x):
        await asyncio.sleep(0.001)
        return x * 2

    async def train():
        await asyncio.sleep(0)
        return leaf() * 2

    async def both():
        return await asyncio.gather(evaluate(leaf()), train())

    evaluated, trained = asyncio.run(both())
    assert not evaluated.requires_grad and trained.requires_grad


def test_an_asynchronous_generator_is_refused():
    with pytest.raises(TypeError, match="asynchronous generator 'steps'"):
        @tr.no_grad
        async def steps():
            yield


def test_methods_can_be_decorated():
    class Model:
        @tr.no_grad
        def evaluate(self, x):
            return x * 2

        @tr.no_grad()
        def batches(self, x):
            yield x * 2

    assert not Model().evaluate(leaf()).requires_grad and not next(Model().batches(leaf())).requires_grad


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="no_grad.. decorates a function"):
        tr.no_grad(False)
    with pytest.raises(TypeError, match="no_grad.. decorates a function"):
        tr.no_grad(leaf())
