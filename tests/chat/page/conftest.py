"""One browser for the tests of the page, which is empty whenever somebody comes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from page_browser import Visitor, browser, console, foreign_requests
from page_server import serving


@pytest.fixture(scope="package")
def at_the_door() -> Iterator[Visitor]:
    with serving() as server, browser() as driver:
        yield Visitor(driver, server)


@pytest.fixture
def visitor(at_the_door: Visitor) -> Iterator[Visitor]:
    """Somebody who comes for the first time; console and requests are looked at afterwards."""
    visitor, driver = at_the_door, at_the_door.driver
    visitor.server.reset()
    visitor.visit()
    visitor.run("localStorage.clear(); sessionStorage.clear()")
    visitor.visit()
    visitor.sees("tiny", "#model")
    yield visitor
    visitor.devtools("Emulation.clearDeviceMetricsOverride")
    visitor.devtools("Emulation.setEmulatedMedia", features=[])
    first, *others = driver.window_handles
    for other in others:
        driver.switch_to.window(other)
        driver.close()
    driver.switch_to.window(first)
    assert console(visitor) == []
    assert foreign_requests(visitor) == []
