#!/usr/bin/env python
"""Stands in for MLServer: says that its model is ready, until the model's bytes say otherwise.

Bytes: `ok`; `never` is never ready; `crash` ends at once; `mute` answers no more once there is a
file `mute` in its folder.
"""

import json
import pathlib
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

assert sys.argv[1:] == ["start", "."], sys.argv
settings = json.loads(pathlib.Path("settings.json").read_text())
model = json.loads(pathlib.Path("model-settings.json").read_text())
behavior = pathlib.Path(model["parameters"]["uri"]).read_text()
if behavior == "crash":
    sys.exit(3)


class Handler(BaseHTTPRequestHandler):
    """Answers the readiness probe."""

    def do_GET(self) -> None:
        is_known = self.path == f"/v2/models/{model['name']}/ready"
        is_mute = behavior == "never" or pathlib.Path("mute").exists()
        self.send_response(200 if is_known and not is_mute else 503)
        self.end_headers()


HTTPServer((settings["host"], settings["http_port"]), Handler).serve_forever()
