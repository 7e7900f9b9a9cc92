"""The page, and what may run in it."""

import base64
import hashlib

from scripted_engine import ScriptedEngine
from starlette.testclient import TestClient

from llm_scratch.chat.page_answer import page_headers, read_page
from llm_scratch.chat.served import ServedModel, ServerSettings
from llm_scratch.chat.server import Application

PAGE = (
    "<style>p { color: red }</style>\r\n<p>Hi</p><script>\nlet a = 1;\r\n</script>"
    "<script>b()</script>"
)


def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_page_is_served_with_a_policy_of_its_own_text(tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(PAGE.encode())
    served = ServedModel("tide", ScriptedEngine(), None)
    app = Application([served], ServerSettings(api_key="k"), page=path)
    answer = TestClient(app.guards, "http://127.0.0.1").get("/")
    assert answer.status_code == 200  # without the key, which it asks for
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == PAGE.replace("\r\n", "\n")
    policy = answer.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert f"script-src {digest(chr(10) + 'let a = 1;' + chr(10))} {digest('b()')}" in policy
    assert f"style-src {digest('p { color: red }')}" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_page_without_scripts_allows_none(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<p>Hi</p>", encoding="utf-8")
    policy = page_headers(read_page(path))["content-security-policy"]
    assert "script-src 'none'" in policy
