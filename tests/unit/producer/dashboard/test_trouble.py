"""What is wrong is said on the page, and to the page's script."""

import pytest
from fakeredis import FakeServer
from flask.testing import FlaskClient

PAGES = ["/", "/0/view/workers", "/0/view/jobs", "/0/view/job/a"]
DATA = ["/0/data/queues.json", "/0/data/workers.json", "/0/data/job/a.json"]


@pytest.fixture
def _no_redis(fake_server: FakeServer) -> None:
    fake_server.connected = False


@pytest.mark.usefixtures("_no_redis")
@pytest.mark.parametrize("path", PAGES)
def test_a_page_explains_that_redis_is_away_and_looks_again(client: FlaskClient, path: str) -> None:
    """rq-dashboard 0.9 says "Connection Error" on one page, and 500 on the others."""
    response = client.get(path)
    assert response.status_code == 503
    assert "Redis does not answer" in response.text
    assert "cannot be used: it cannot be reached" in response.text
    assert "check the URL and that the server runs" in response.text
    assert "--redis-url" in response.text
    assert '<meta http-equiv="refresh"' in response.text
    assert "hunter2" not in response.text


@pytest.mark.usefixtures("_no_redis")
@pytest.mark.parametrize("path", DATA)
def test_a_pages_script_hears_of_it(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 503
    assert "check the URL and that the server runs" in response.get_json()["error"]


def test_an_open_page_says_it_in_its_own_place(client: FlaskClient, fake_server: FakeServer) -> None:
    page = client.get("/").text
    assert 'id="trouble"' in page
    assert "ajaxError" in page


def test_a_job_that_is_gone_is_explained_in_the_dashboards_own_look(client: FlaskClient) -> None:
    response = client.get("/0/view/job/gone")
    assert response.status_code == 404
    assert "genqueue.css" in response.text
    assert "<h1>Not Found</h1>" in response.text
    assert '<meta http-equiv="refresh"' not in response.text


def test_what_an_address_holds_is_text(client: FlaskClient) -> None:
    page = client.get("/0/view/job/%3Cscript%3Ealert(1)%3C%2Fscript%3E").text
    assert "<script>alert" not in page


def test_every_page_says_which_server_it_is_about(client: FlaskClient) -> None:
    page = client.get("/").text
    assert "Redis at " in page
    assert "hunter2" not in page
