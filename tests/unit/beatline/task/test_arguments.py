"""Arguments are checked against what the task takes; the error names the task and each argument, and no value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, cast

import pytest
from celery import Celery, Task
from celery.utils.functional import arity_greater, head_from_fun
from pydantic import BaseModel, ValidationInfo, field_validator

from beatline.engine.amqp import unchecked
from beatline.errors import ArgumentsError
from beatline.task import arguments
from beatline.task.cancelling import make_stoppable
from beatline.task.guard import guard


class Line(BaseModel):
    article: str
    count: int


class Order(BaseModel):
    number: int
    lines: list[Line] = []


class Guarded(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def _fits(cls, text: str, info: ValidationInfo) -> str:
        if text != cast("dict[str, str]", info.context)["word"]:
            raise ValueError("is not the word")
        return text


@pytest.fixture
def app() -> Iterator[Any]:
    app: Any = Celery("arguments", set_as_current=False)
    app.type_checker = unchecked
    app.task = partial(app.task, shared=False)  # else every app that a later test makes has these tasks too
    yield app
    app.close()


def told(task: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(ArgumentsError) as caught:
        arguments.check(task, args, kwargs)
    assert repr(task.name) in str(caught.value)
    assert isinstance(caught.value, TypeError), "what Celery raises"
    return caught.value.problems


def test_the_signature(app: Any) -> None:
    def plain(a: int, b: str, c: int = 3, *, d: int, e: int = 5) -> None:
        del a, b, c, d, e

    plain_task = app.task(name="t.plain")(plain)

    arguments.check(plain_task, (1, "x"), {"d": 4})
    arguments.check(plain_task, [1], {"b": "x", "d": 4, "e": 6})
    assert told(plain_task, 1) == ("argument 'b' is missing", "argument 'd' is missing")
    assert told(plain_task, 1, 2, 3, 4, d=1) == ("4 positional arguments are given and 3 are taken",)
    assert told(plain_task, 1, 2, d=1, f=2, g=3) == ("there is no argument 'f'", "there is no argument 'g'")
    assert told(plain_task, 1, 2, d=1, a=2) == ("argument 'a' is given twice",)
    assert told(plain_task) == ("argument 'a' is missing", "argument 'b' is missing", "argument 'd' is missing")
    with pytest.raises(ArgumentsError, match=r"It takes \(a, b, c=…, \*, d, e=…\)\."):
        arguments.check(plain_task, None, None)


def test_no_value_is_repeated(app: Any) -> None:
    def secret(order: Order, password: str = "of the default") -> None:  # noqa: S107
        del order, password

    secret_task = app.task(name="t.secret")(secret)

    with pytest.raises(ArgumentsError) as caught:
        arguments.check(secret_task, ({"number": "hunter2"},), {"password": "hunter2", "pin": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert "of the default" not in str(caught.value)
    with pytest.raises(ArgumentsError) as caught:
        arguments.check(secret_task, ({"number": "hunter2"},), {})
    assert "hunter2" not in str(caught.value)


def test_a_bound_task_is_not_given_itself(app: Any) -> None:
    def bound(self: Any, a: int) -> None:
        del self, a

    bound_task = app.task(name="t.bound", bind=True)(bound)

    arguments.check(bound_task, (1,), {})
    assert told(bound_task) == ("argument 'a' is missing",)
    assert told(bound_task, 1, 2) == ("2 positional arguments are given and 1 are taken",)


def test_anything_goes_where_the_task_takes_anything(app: Any) -> None:
    def open_(a: int, *rest: int, **named: int) -> None:
        del a, rest, named

    open__task = app.task(name="t.open")(open_)

    arguments.check(open__task, (1, 2, 3), {"x": 4})
    assert told(open__task, x=4) == ("argument 'a' is missing",)


def test_a_positional_only_argument_has_no_name(app: Any) -> None:
    def positional(a: int, /) -> None:
        del a

    positional_task = app.task(name="t.positional")(positional)

    assert told(positional_task, a=1) == ("there is no argument 'a'", "argument 'a' is missing")


def test_a_task_that_is_a_class(app: Any) -> None:
    class Classy(Task):  # type: ignore[type-arg]  # as users write it
        name = "t.classy"

        def run(self, a: int) -> None:
            del a

    classy = app.register_task(Classy())
    arguments.check(classy, (1,), {})
    assert told(classy, b=1) == ("there is no argument 'b'", "argument 'a' is missing")


def test_what_is_wrapped_around_a_body_changes_nothing(app: Any) -> None:
    def wrapped(self: Any, a: int) -> None:
        del self, a

    wrapped_task = app.task(name="t.wrapped", bind=True, autoretry_for=(ValueError,))(wrapped)

    guard(wrapped_task)
    arguments.check(wrapped_task, (1,), {})
    assert told(wrapped_task) == ("argument 'a' is missing",)


def with_db(body: Callable[..., Any]) -> Callable[..., Any]:
    """What many projects have: the body is given what the caller does not know of."""

    @wraps(body)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return body("db", *args, **kwargs)

    return wrapper


@pytest.mark.parametrize("options", [{}, {"autoretry_for": (ValueError,)}])
def test_what_a_decorator_gives_the_body_no_caller_has_to(app: Any, options: dict[str, Any]) -> None:
    def injected(db: str, order: Order) -> None:
        del db, order

    injected_task = app.task(name="t.injected", **options)(with_db(injected))

    make_stoppable(injected_task)
    guard(injected_task)
    arguments.check(injected_task, ({"number": "of another kind"},), {})


def test_a_decorator_is_asked_for_its_own_signature(app: Any) -> None:
    def body(db: str, x: int) -> None:
        del db, x

    @wraps(body)
    def wrapper(x: int) -> None:
        body("db", x)

    wrapper_task = app.task(name="t.decorated")(wrapper)

    arguments.check(wrapper_task, (1,), {})
    assert told(wrapper_task, 1, 2) == ("2 positional arguments are given and 1 are taken",)


def test_a_class_with_a_call_of_its_own_takes_what_that_takes(app: Any) -> None:
    class Calling(Task):  # type: ignore[type-arg]  # as users write it
        name = "t.calling"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.run("db", *args, **kwargs)

        def run(self, db: str, x: int) -> None:
            del db, x

    arguments.check(app.register_task(Calling()), (1,), {})

    def plain(a: int) -> None:
        del a

    decorated = app.task(name="t.with_base", base=Calling)(plain)
    assert told(decorated) == ("argument 'a' is missing",), "as Celery checks it"


def test_a_model_of_a_bound_task(app: Any) -> None:
    def bound(self: Any, order: Order) -> None:
        del self, order

    bound_task = app.task(name="t.bound_model", bind=True, pydantic=True)(bound)

    arguments.check(bound_task, ({"number": 1},), {})
    assert told(bound_task, {}) == ("order.number: Field required",)


@pytest.mark.parametrize("bind", [False, True])
def test_celery_finds_out_how_an_errback_is_called(app: Any, bind: bool) -> None:
    """It reads that from the check that is left out: with the failed run's id, or with request, error and traceback."""

    def old(task_id: str) -> None:
        del task_id

    def new(request: Any, exc: Any, traceback: Any) -> None:
        del request, exc, traceback

    for body in (old, new):
        task = app.task(name=f"t.errback.{body.__name__}", bind=bind)(body)
        stock = head_from_fun(body, bound=bind)
        assert isinstance(task.__header__, partial) is isinstance(stock, partial) is bind
        assert bind or bool(arity_greater(task.__header__, 1)) is (body is new)
        task.__header__(1, 2, 3, 4, any="thing")


def test_who_wants_no_check_has_none(app: Any) -> None:
    def untyped(a: int) -> None:
        del a

    untyped_task = app.task(name="t.untyped", typing=False)(untyped)

    arguments.check(untyped_task, (), {"b": 1})


@pytest.mark.parametrize("pydantic", [True, False])
def test_a_model_says_which_field_is_wrong(app: Any, pydantic: bool) -> None:
    def model(order: Order, urgent: Order | None = None, *, note: str = "") -> None:
        del order, urgent, note

    model_task = app.task(name="t.model", pydantic=pydantic)(model)

    arguments.check(model_task, ({"number": 1, "lines": [{"article": "a", "count": 2}]},), {"note": "x"})
    arguments.check(model_task, ({"number": 1}, None), {})
    arguments.check(model_task, (Order(number=1),), {})
    assert told(model_task, {"number": "x"}) == (
        "order.number: Input should be a valid integer, unable to parse string as an integer",
    )
    assert told(model_task, {"number": 1, "lines": [{"article": "a"}]}) == ("order.lines.0.count: Field required",)
    assert told(model_task, {"number": 1}, urgent={}) == ("urgent.number: Field required",)
    [problem] = told(model_task, None)
    assert problem.startswith("order: Input should be a valid dictionary")


def test_celery_validates_with_the_context_of_the_task(app: Any) -> None:
    def context(gate: Guarded, order: Order) -> None:
        del gate, order

    context_task = app.task(name="t.context", pydantic=True, pydantic_context={"word": "mellon"}, pydantic_strict=True)(
        context
    )

    arguments.check(context_task, ({"text": "mellon"}, {"number": 1}), {})
    assert told(context_task, {"text": "friend"}, {"number": 1}) == ("gate.text: Value error, is not the word",)
    assert told(context_task, {"text": "mellon"}, {"number": "1"}) == ("order.number: Input should be a valid integer",)


def test_annotations_that_cannot_be_read_are_no_models(app: Any) -> None:
    def body(a: Any) -> None:
        del a

    body.__annotations__["a"] = "NoSuchName"
    task = app.task(name="t.unreadable")(body)
    arguments.check(task, ({"x": 1},), {})
