"""Whatever the OpenAPI document allows, and what it does not, is answered without a failure of the server's own."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from running import running, stub_app

from cocoa.errors import DataError


class Nothing:
    """An index in which nothing is found."""

    columns: dict[str, str] = {"price": "int"}  # noqa: RUF012

    def search_vectors(self, vectors, k, *, filter=None):  # noqa: A002
        return [[] for _ in vectors]

    def get(self, ids):
        raise DataError("E_INDEX_ID", "no such document")

    def known(self, ids):
        return {}

    def count(self):
        return 0

    def facets(self, column, limit):
        return {}

    def range(self, column):
        return None


@pytest.fixture(scope="module")
def target():
    with running(stub_app(index=Nothing())) as here:
        yield here


def _check(target, num_examples: int) -> None:
    schema = schemathesis.openapi.from_dict(target.client.get("/openapi.json").json())
    schema.config.update(base_url=target.url)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) > 8
    for operation in operations:

        @settings(
            max_examples=num_examples,
            database=None,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            answer = case.call(base_url=target.url)
            assert answer.status_code < 500 or (answer.status_code == 503 and case.path == "/readyz"), answer.text

        ask()


def test_no_request_that_the_schema_allows_makes_a_500(target):
    _check(target, 8)


@pytest.mark.slow
def test_no_request_of_hundreds_makes_a_500(target):
    _check(target, 300)
