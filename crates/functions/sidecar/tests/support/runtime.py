"""A runtime by the contract of Fission's environments, as small as it can be.

Listens at the port in argv[1]; the code is a Python file, or a directory with main.py.
"""
import importlib.machinery, importlib.util, json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

function = None


def load(path, entry):
    name, _, attribute = (entry or "main").partition(".")
    if os.path.isdir(path):
        path = os.path.join(path, name + ".py")
    spec = importlib.util.spec_from_loader(
        name, importlib.machinery.SourceFileLoader(name, path)
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, attribute or "main")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        global function
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path not in ("/specialize", "/v2/specialize"):
            return self.do_GET()
        if function is not None:
            return self.answer(400, b"Not a generic container")
        try:
            if self.path == "/specialize":
                function = load(os.environ["CODE"], "main")
            else:
                request = json.loads(body)
                function = load(request["filepath"], request["functionName"])
        except Exception as error:
            return self.answer(500, f"{type(error).__name__}: {error}".encode())
        self.answer(202)

    def do_GET(self):
        if function is None:
            return self.answer(500, b"Generic container: no requests supported")
        self.answer(200, str(function()).encode())


server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.serve_forever()
