"""Errors as problem details (RFC 9457), which name the field."""

import http
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from uwe_jax.serve.batcher import BusyError
from uwe_jax.serve.schemas import FieldError, Problem

MEDIA_TYPE = 'application/problem+json'
MOST_ERRORS = 20  # named in an answer
RETRY_AFTER_S = 1


class RefusedError(Exception):
    """A field of the body does not fit what is served."""

    def __init__(self, field: str, detail: str):
        super().__init__(detail)
        self.error = FieldError(pointer=f'#/{field}', detail=detail)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for OpenAPI."""
    schema = {'$ref': '#/components/schemas/Problem'}
    return {
        status: {'description': http.HTTPStatus(status).phrase, 'content': {MEDIA_TYPE: {'schema': schema}}}
        for status in statuses
    }


def handle_errors(app: FastAPI) -> None:
    """Answers every error of an app with a problem."""

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(422, [_field_error(one) for one in error.errors()[:MOST_ERRORS]])

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return problem(422, [error.error])

    async def busy(_: Request, error: Exception) -> Response:
        return problem(503, detail=str(error), headers={'Retry-After': str(RETRY_AFTER_S)})

    async def other(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, detail=str(error.detail), headers=error.headers)

    async def unexpected(_: Request, error: Exception) -> Response:
        return problem(500, detail='an error in the service; its log says more')

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(BusyError, busy)
    app.add_exception_handler(HTTPException, other)
    app.add_exception_handler(Exception, unexpected)


def describe_problems(app: FastAPI) -> None:
    """Adds to the description of an app, whose routes are complete, what `documented` refers to."""
    _, schema = models_json_schema([(Problem, 'serialization')], ref_template='#/components/schemas/{model}')
    app.openapi()['components']['schemas'] |= schema['$defs']


def problem(
    status: int,
    errors: Sequence[FieldError] = (),
    detail: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An answer with problem details; by default, the first error says what is wrong."""
    if detail is None:
        detail = f'{errors[0].pointer}: {errors[0].detail}'
    content = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors))
    # Escaped: the name of an unknown field may hold what UTF-8 cannot represent.
    body = json.dumps(content.model_dump())
    return Response(body, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _field_error(error: Mapping[str, Any]) -> FieldError:
    """One of pydantic's errors. Its place begins with `body`."""
    if error['type'] == 'json_invalid':
        return FieldError(pointer='#', detail=f'not JSON: {error["ctx"]["error"]} at character {error["loc"][-1]}')
    _, *keys = error['loc']
    pointer = '/'.join(str(key)[:100].replace('~', '~0').replace('/', '~1') for key in ['#', *keys])
    return FieldError(pointer=pointer, detail=error['msg'].removeprefix('Value error, '))
