"""Runs one Python function behind HTTP, by the contract of Fission's environments.

States: generic (answers /healthz and waits for code) -> specialised (everything else goes to
the function). Code comes once, by POST /specialize (one file) or POST /v2/specialize (where it
is and what its entry point is).

What functions may be:
- `def main():` as in Flask, with `flask.request` inside; its return value is Flask's;
- `def main(request):` with the light `Request` below, which costs less;
- `async def`, and generators, whose pieces are sent as they come.

Promises: it listens before it has imported what functions need, and imports that while nothing
is to be done: code that comes later finds it done, code that comes at once waits for what it asks
for only; which of two modules of one name a function gets does not depend on that; one slow call
delays no other by more than PATIENCE; SIGTERM lets calls that run come to their end.

Threads: one leads, that is, waits for requests and answers them itself, so that short calls
need no change of threads, which is dear in Python. When its call takes longer than PATIENCE,
another thread leads, and the old one ends with its call.
"""

import builtins
import collections.abc
import importlib
import importlib.machinery
import importlib.util
import io
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import types
from urllib.parse import parse_qsl, unquote

# What functions need most often, from what is cheap to what is dear; what is dear is in pieces, so
# that code that comes meanwhile waits for one of them only.
LATER = (
    "inspect traceback contextlib copy dataclasses functools"
    " itertools http logging re string typing base64 datetime decimal enum hashlib hmac math random"
    " struct tempfile uuid zlib pathlib csv email.utils http.client ssl urllib.request asyncio"
    " werkzeug.exceptions werkzeug.datastructures werkzeug.routing werkzeug.wrappers click"
    " markupsafe jinja2.runtime jinja2 itsdangerous blinker flask"
).split()
PORT = int(os.environ.get("PORT", "8888"))
USERFUNC = os.environ.get("USERFUNC", "/userfunc")
MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = int(os.environ.get("MAX_BODY_BYTES", str(256 << 20)))
# How long a call may hold up others, in seconds.
PATIENCE = 0.005
# As `CO_COROUTINE` of `inspect`, which takes its time to import.
COROUTINE = 0x80


def top_level(name):
    """Of a module or its file, what stands before the first dot."""
    return name.partition(".")[0]


# Names that a package must not take from those of LATER, as long as they are not imported.
OURS = sys.stdlib_module_names | set(map(top_level, LATER))


class Imports:
    """What is in LATER, one by one."""

    def __init__(self):
        self.left = list(reversed(LATER))
        self.lock = threading.Lock()

    def step(self):
        """Imports the next one."""
        with self.lock:
            if self.left:
                bring(self.left.pop())

    def end(self, path):
        """Code comes. A package with modules of our names finds ours, as it would later."""
        # What another thread imports just now comes to its end first.
        with self.lock:
            left, self.left = self.left, []
        if os.path.isdir(path) and not OURS.isdisjoint(map(top_level, os.listdir(path))):
            while left:
                bring(left.pop())


def bring(name):
    """Imports a module, unless the image is a smaller one."""
    try:
        importlib.import_module(name)
    except ImportError:
        pass


IMPORTS = Imports()


def reason(status):
    """The phrase of a status."""
    if status == 200:
        return "OK"
    from http import HTTPStatus

    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


class Refused(Exception):
    """A request that is answered with a status and a text."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status, self.text = status, text


class Request:
    """A call, for functions that take an argument."""

    __slots__ = ("method", "path", "query_string", "body", "_lines", "_headers", "_query")

    def __init__(self, method, path, query_string, lines, body):
        self.method, self.path, self.query_string = method, path, query_string
        self.body, self._lines, self._headers, self._query = body, lines, None, None

    @property
    def headers(self):
        """Headers by name. Read when they are asked for: most functions never do."""
        if self._headers is None:
            self._headers = read_headers(self._lines)
        return self._headers

    @property
    def query(self):
        """Query parameters; of repeated ones the last."""
        if self._query is None:
            self._query = dict(parse_qsl(self.query_string, keep_blank_values=True))
        return self._query

    args = query

    @property
    def text(self):
        """The body as UTF-8."""
        return self.body.decode()

    def json(self):
        """The body as JSON."""
        return json.loads(self.body)

    get_json = json

    @property
    def request(self):
        """So that `context.request` works too."""
        return self


class Headers(dict):
    """Headers by lower-case name; names are looked up in any case."""

    def __getitem__(self, name):
        return super().__getitem__(name.lower())

    def __contains__(self, name):
        return super().__contains__(name.lower())

    def get(self, name, default=None):
        return super().get(name.lower(), default)


def read_headers(lines):
    """Headers of a head without its first line; each of them begins with a line break."""
    found = {}
    for line in lines.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise Refused(400, "a header without a colon")
        name, value = name.lower(), value.strip()
        found[name] = f"{found[name]}, {value}" if name in found else value
    return Headers(found)


class Function:
    """The code, once it is there."""

    def __init__(self):
        self.lock = threading.Lock()
        self.call = None
        self.taken = False

    def specialise(self, path, name):
        """Loads the code. Only the first time can succeed."""
        with self.lock:
            if self.taken:
                raise Refused(400, "Not a generic container")
            self.taken = True
        try:
            IMPORTS.end(path)
            function, uses_flask = load(path, name)
            self.call = caller(function, uses_flask)
        except BaseException as error:
            text = own_words(error)
            print(text, file=sys.stderr, flush=True)
            raise Refused(500, text) from None


def own_words(error):
    """The traceback without the frames that are ours or the import system's."""
    import traceback

    told = traceback.TracebackException.from_exception(error)
    ours = (__file__, "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
    frames = [frame for frame in told.stack if frame.filename not in ours]
    told.stack = traceback.StackSummary.from_list(frames or told.stack)
    return "".join(told.format())


def load(path, name):
    """The function and whether its code speaks of Flask."""
    seen = set()
    real = builtins.__import__

    def watching(module, *rest, **more):
        seen.add(top_level(module))
        return real(module, *rest, **more)

    builtins.__import__ = watching
    try:
        module, entry = load_module(path, name)
    finally:
        builtins.__import__ = real
    function = getattr(module, entry, None)
    if not callable(function):
        raise AttributeError(f"{module.__file__} has no function {entry!r}")
    return function, "flask" in seen or speaks_of_flask(module)


def load_module(path, name):
    if os.path.isdir(path):
        module_name, _, entry = (name or "main").rpartition(".")
        if not module_name:
            module_name, entry = ("main", name) if name else ("main", "main")
            # `fission` takes a lone word for a module too.
            if name and os.path.exists(os.path.join(path, name + ".py")):
                module_name, entry = name, "main"
        sys.path.insert(0, path)
        os.chdir(path)
        return importlib.import_module(module_name), entry
    entry = (name or "main").rpartition(".")[2]
    loader = importlib.machinery.SourceFileLoader("user", path)
    spec = importlib.util.spec_from_loader("user", loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["user"] = module
    spec.loader.exec_module(module)
    return module, entry


def speaks_of_flask(module):
    """An import within a function is seen only when it runs, which is too late."""
    try:
        with open(module.__file__, "rb") as source:
            return b"flask" in source.read()
    except (OSError, TypeError):
        return False


def caller(function, uses_flask):
    """What to do with a request: gives status, headers and body."""
    takes_argument = takes_one(function)
    flask = flask_module() if uses_flask else None
    if flask is not None:
        from werkzeug.exceptions import HTTPException

        app = flask.Flask("user")
        # The platform's own limit holds.
        app.config["MAX_CONTENT_LENGTH"] = None
        plain = lambda request: function(request) if takes_argument else function()  # noqa: E731
        return lambda request: through_flask(app, HTTPException, plain, request)
    if is_coroutine_function(function):
        import asyncio

        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()

        def run(request):
            coroutine = function(request) if takes_argument else function()
            return plain_answer(asyncio.run_coroutine_threadsafe(coroutine, loop).result())

        return run
    if takes_argument:
        return lambda request: plain_answer(function(request))
    return lambda request: plain_answer(function())


def flask_module():
    """Flask, unless the image is a smaller one."""
    try:
        import flask
    except ImportError:
        return None
    return flask


def is_plain(function):
    """Whether it says all of itself, without `inspect`."""
    return type(function) is types.FunctionType and not function.__dict__


def is_coroutine_function(function):
    if is_plain(function):
        return bool(function.__code__.co_flags & COROUTINE)
    import inspect

    return inspect.iscoroutinefunction(function)


def takes_one(function):
    """Whether it must be called with an argument."""
    if is_plain(function):
        return function.__code__.co_argcount > len(function.__defaults__ or ())
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in kinds and p.default is p.empty for p in parameters)


def through_flask(app, http_exception, function, request):
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(request.path, "latin-1"),
        "QUERY_STRING": request.query_string,
        "RAW_URI": request.path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": str(PORT),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.headers.get("x-forwarded-for", "").partition(",")[0] or "127.0.0.1",
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        if name == "content-type":
            environ["CONTENT_TYPE"] = value
        elif name != "content-length":
            environ["HTTP_" + name.upper().replace("-", "_")] = value
    with app.request_context(environ):
        try:
            answer = function(request)
            if isinstance(answer, collections.abc.Awaitable):
                import asyncio

                answer = asyncio.run(answer)
            if answer is None:
                answer = ""
            response = app.make_response(answer)
        except http_exception as error:  # abort(404)
            response = error.get_response()
        headers = [(k, v) for k, v in response.headers.items() if k.lower() != "content-length"]
        if response.is_streamed:
            return response.status_code, headers, response.response
        return response.status_code, headers, response.get_data()


def plain_answer(value):
    """Status, headers and body of what a function gives back, as Flask reads it."""
    status, headers = 200, []
    if isinstance(value, tuple):
        value, *rest = value
        for part in rest:
            if isinstance(part, int):
                status = part
            elif isinstance(part, collections.abc.Mapping):
                headers = list(part.items())
            else:
                headers = list(part)
    if isinstance(value, str):
        body, kind = value.encode(), "text/html; charset=utf-8"
    elif isinstance(value, (bytes, bytearray)):
        body, kind = bytes(value), "application/octet-stream"
    elif value is None:
        body, kind = b"", None
    elif isinstance(value, (dict, list)):
        body, kind = json.dumps(value).encode(), "application/json"
    elif hasattr(value, "get_data") and hasattr(value, "status_code"):
        headers = [(k, v) for k, v in value.headers.items() if k.lower() != "content-length"]
        return value.status_code, headers, value.get_data()
    elif isinstance(value, collections.abc.Iterator):
        body, kind = value, "text/plain; charset=utf-8"
    elif hasattr(value, "__aiter__"):
        body, kind = drained(value), "text/plain; charset=utf-8"
    else:
        raise TypeError(f"a function cannot answer with {type(value).__name__}")
    if kind and not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", kind))
    return status, headers, body


def drained(pieces):
    import asyncio

    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(pieces.__anext__())
            except StopAsyncIteration:
                return
    finally:
        loop.close()


class Connection:
    """One client."""

    def __init__(self, server, sock):
        self.server, self.sock, self.buffer = server, sock, b""

    def serve(self):
        """Answers what has come; False when the connection has ended."""
        try:
            while self.one():
                if b"\r\n\r\n" not in self.buffer:
                    return True
        except (OSError, EOFError):
            pass  # the client is gone
        return False

    def one(self):
        """Answers one request; False when it was the last."""
        head = self.read_head()
        if head is None:
            return False
        server = self.server
        with server.lock:
            server.calls += 1
        try:
            return self.call(head)
        finally:
            with server.lock:
                server.calls -= 1
                if server.stopping:
                    server.idle.notify_all()

    def call(self, head):
        try:
            request, keep = self.read_request(head)
        except Refused as refusal:
            self.send(refusal.status, [], refusal.text.encode(), False, False)
            return False
        keep = keep and not self.server.stopping
        try:
            status, headers, body = self.server.answer(request)
        except Refused as refusal:
            status, headers, body = refusal.status, TEXT, refusal.text.encode()
        except (Exception, SystemExit) as error:  # sys.exit ends a call, not the server
            print(own_words(error), file=sys.stderr, flush=True)
            status, headers = 500, TEXT
            body = f"{type(error).__name__}: {error}".encode()
        self.send(status, headers, body, keep, request.method == "HEAD")
        return keep

    def read_head(self):
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end >= 0:
                head, self.buffer = self.buffer[:end], self.buffer[end + 4 :]
                return head
            if len(self.buffer) > MAX_HEAD_BYTES:
                self.send(431, [], b"", False, False)
                return None
            data = self.sock.recv(65536)
            if not data:
                return None
            self.buffer += data

    def read_request(self, head):
        first, line_break, lines = head.partition(b"\r\n")
        try:
            method, target, version = first.decode("latin-1").split(" ")
        except ValueError:
            raise Refused(400, "not an HTTP request") from None
        path, _, query = target.partition("?")
        request = Request(method, path, query, line_break + lines, b"")
        keep = version == "HTTP/1.1"
        if lines:
            known = request._lines.lower()
            if any(name in known for name in FRAMING):
                keep = self.read_framed(request, keep)
        return request, keep

    def read_framed(self, request, keep):
        """Reads the body as the headers say; whether the connection is kept."""
        headers = request.headers
        if headers.get("expect", "").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.body = self.read_body(headers)
        wish = headers.get("connection", "").lower()
        return wish != "close" if keep else wish == "keep-alive"

    def read_body(self, headers):
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self.read_chunks()
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            raise Refused(400, "content-length is no number") from None
        if length > MAX_BODY_BYTES:
            raise Refused(413, f"a body may have {MAX_BODY_BYTES} bytes")
        return self.read_exactly(length) if length else b""

    def read_exactly(self, length):
        if len(self.buffer) >= length:
            data, self.buffer = self.buffer[:length], self.buffer[length:]
            return data
        whole = bytearray(length)
        whole[: len(self.buffer)] = self.buffer
        view, at, self.buffer = memoryview(whole), len(self.buffer), b""
        while at < length:
            count = self.sock.recv_into(view[at:])
            if not count:
                raise EOFError
            at += count
        return bytes(whole)

    def read_line(self):
        while (end := self.buffer.find(b"\r\n")) < 0:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.buffer += data
        line, self.buffer = self.buffer[:end], self.buffer[end + 2 :]
        return line

    def read_chunks(self):
        pieces, total = [], 0
        while True:
            try:
                size = int(self.read_line().partition(b";")[0], 16)
            except ValueError:
                raise Refused(400, "a chunk without a size") from None
            total += size
            if total > MAX_BODY_BYTES:
                raise Refused(413, f"a body may have {MAX_BODY_BYTES} bytes")
            if size == 0:
                while self.read_line():
                    pass  # trailers
                return b"".join(pieces)
            pieces.append(self.read_exactly(size))
            self.read_exactly(2)

    def send(self, status, headers, body, keep, head_only):
        lines = [f"HTTP/1.1 {status} {reason(status)}"]
        for name, value in headers:
            value = str(value)
            if "\n" in value or "\r" in value:
                raise OSError("a header with a line break")
            lines.append(f"{name}: {value}")
        if not keep:
            lines.append("Connection: close")
        if isinstance(body, bytes):
            if status not in (204, 304):
                lines.append(f"Content-Length: {len(body)}")
            head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
            if head_only or status in (204, 304):
                self.sock.sendall(head)
            elif len(body) < 65536:
                self.sock.sendall(head + body)
            else:
                self.sock.sendall(head)
                self.sock.sendall(body)
            return
        lines.append("Transfer-Encoding: chunked")
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        for piece in body:
            piece = piece.encode() if isinstance(piece, str) else bytes(piece)
            if piece:
                self.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.sock.sendall(b"0\r\n\r\n")


# Headers that say how long a request is, and what becomes of its connection.
FRAMING = (b"\r\ncontent-length:", b"\r\ntransfer-encoding:", b"\r\nconnection:", b"\r\nexpect:")
TEXT = [("Content-Type", "text/plain; charset=utf-8")]


class Server:
    """Listens, and sends each request where it belongs."""

    def __init__(self):
        self.function = Function()
        self.stopping = False
        self.calls = 0
        self.lock = threading.Lock()
        self.idle = threading.Condition(self.lock)
        self.listener = socket.create_server(("0.0.0.0", PORT), backlog=1024, reuse_port=False)
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)
        self.connections = {}
        self.leader = None
        self.busy_since = None
        self.wake = threading.Event()
        self.resting = False

    def answer(self, request):
        path = request.path
        if self.function.call is None or path in OWN_PATHS:
            return self.answer_own(request, path)
        return self.function.call(request)

    def answer_own(self, request, path):
        if path == "/healthz":
            return 200, [], b""
        if path in OWN_PATHS and request.method == "POST":
            if self.function.taken:
                raise Refused(400, "Not a generic container")
            where, name = os.path.join(USERFUNC, "user"), ""
            if path == "/v2/specialize":
                try:
                    asked = json.loads(request.body)
                    where, name = asked["filepath"], asked.get("functionName") or ""
                except (ValueError, KeyError, TypeError):
                    raise Refused(400, "filepath and functionName are needed, as JSON") from None
            self.function.specialise(where, name)
            return 200, [], b""
        if self.function.call is None:
            raise Refused(500, "Generic container: no requests supported")
        return self.function.call(request)

    def stop(self, *_):
        self.stopping = True
        os.write(self.told, b".")
        self.listener.close()

    def run(self):
        asked, self.told = os.pipe()
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        self.promote()
        threading.Thread(target=self.watch, daemon=True).start()
        # A pipe remembers a signal that comes before anybody waits for it.
        os.read(asked, 1)
        with self.idle:
            self.idle.wait_for(lambda: self.calls == 0)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def promote(self):
        """Another thread leads from now on."""
        self.leader = object()
        self.busy_since = None
        threading.Thread(target=self.lead, args=(self.leader,), daemon=True).start()

    def lead(self, mine):
        poll, rearm, accept = self.epoll.poll, self.epoll.modify, self.listener.fileno()
        once = select.EPOLLIN | select.EPOLLONESHOT
        while self.leader is mine:
            events = poll(0 if IMPORTS.left else -1, 1)
            if not events and IMPORTS.left:
                IMPORTS.step()
            for fd, _ in events:
                if self.resting:
                    self.wake.set()
                if fd == accept:
                    self.accept()
                    continue
                connection = self.connections[fd]
                self.busy_since = time.monotonic()
                alive = connection.serve()
                if self.leader is mine:
                    self.busy_since = None
                if alive:
                    rearm(fd, once)
                else:
                    # In this order: once closed, the number may be another connection's.
                    del self.connections[fd]
                    connection.sock.close()

    def accept(self):
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return  # stopping, or the client is gone again
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections[sock.fileno()] = Connection(self, sock)
        self.epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLONESHOT)

    def watch(self):
        """Promotes another thread when the leader is held up. Rests while nothing comes."""
        while True:
            self.resting = True
            self.wake.wait()
            self.wake.clear()
            self.resting = False
            quiet = 0
            while quiet < 200:
                time.sleep(PATIENCE)
                since = self.busy_since
                quiet = quiet + 1 if since is None else 0
                if since is not None and time.monotonic() - since > PATIENCE:
                    self.promote()


OWN_PATHS = {"/healthz", "/specialize", "/v2/specialize"}

if __name__ == "__main__":
    # A call is short: threads that wait for one should get their turn soon.
    sys.setswitchinterval(0.001)
    # Code is loaded once: keeping it compiled would only cost time.
    sys.dont_write_bytecode = True
    Server().run()
