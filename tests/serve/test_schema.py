"""A fuzz of the service by its own description: no request is answered with an error of the service."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.slow


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize('path', ['/rank', '/score', '/attention'])
def test_every_answer_is_one_that_the_description_promises(address, path):
    operation = schemathesis.openapi.from_url(f'{address}/openapi.json')[path]['POST']

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    )
    def check(case):
        case.call_and_validate(checks=CHECKS)

    check()
