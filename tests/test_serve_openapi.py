"""The served OpenAPI document, and schemathesis against it: what the document allows is answered as it says."""

import httpx
import pytest
import schemathesis
from engine_tiny import one_thread  # noqa: F401
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from serve_tiny import PATIENCE, serving

from seekling.serve.app import make_app
from seekling.serve.openapi import REQUESTS
from seekling.serve.state import Limits

WANTED = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
]


@pytest.fixture(scope="module")
def served():
    with serving(limits=Limits(max_tokens=2, n=2, prompts=4)) as it:
        yield it


def test_every_route_is_in_the_document_and_nothing_else(served):
    document = httpx.get(f"{served.url}/openapi.json").json()
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    known = [route for route in make_app(served.state).routes if not route.path.startswith("/page/")]
    routes = {(r.path.replace(":path}", "}"), m) for r in known for m in r.methods - {"HEAD"}}
    assert described == routes and document["openapi"].startswith("3.1")


def test_a_request_is_described_by_the_fields_that_read_it(served):
    schemas = httpx.get(f"{served.url}/openapi.json").json()["components"]["schemas"]
    for model in REQUESTS.values():
        assert set(schemas[model.__name__]["properties"]) == set(model.model_fields)
        assert schemas[model.__name__]["additionalProperties"] is False


def explore(served, examples):
    """Requests made from the document, right and wrong ones, each answer checked against it. Returns how many."""
    count = 0
    for found in schemathesis.openapi.from_url(f"{served.url}/openapi.json").get_all_operations():
        operation = found.ok()
        kinds = [operation.as_strategy(generation_mode=GenerationMode.POSITIVE)]
        if operation.method == "post":
            kinds.append(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))

        @given(case=st.one_of(kinds))
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        )
        def run(case):
            nonlocal count
            count += 1
            case.call_and_validate(checks=CHECKS.get_by_names(WANTED), timeout=PATIENCE)

        run()
    return count


def test_schemathesis_finds_nothing_in_a_few_requests_of_each_kind(served):
    assert explore(served, 6) > 200


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_many_requests(served):
    assert explore(served, 150) > 5000
