<?php
// Runs one PHP function behind HTTP, by the contract of Fission's environments.
//
// States: generic (one process answers /healthz and waits for code; each connection is answered
// once) -> specialised (a connection has a process of its own, forked from the one that loaded the
// code, so that calls run beside each other).
//
// The function is `function handler($context)`, with `$context['request']`, `['response']` and
// `['logger']` that have the methods of PSR-7 and PSR-3 which are used most. It answers with a
// string, an array (JSON), a response, a generator (sent as it comes), or by what it writes. A file
// without a function runs as a script for every request, in a process of its own.
//
// Promises: a function that fails answers 500 and harms no other call; SIGTERM lets calls that run
// come to their end.
declare(strict_types=1);

namespace Farplane;

const MAX_HEAD = 64 * 1024;
const TEXT = ['Content-Type' => 'text/plain; charset=utf-8'];
const REASONS = [
    200 => 'OK', 201 => 'Created', 202 => 'Accepted', 204 => 'No Content', 302 => 'Found', 304 => 'Not Modified',
    400 => 'Bad Request', 401 => 'Unauthorized', 403 => 'Forbidden', 404 => 'Not Found', 413 => 'Content Too Large',
    431 => 'Request Header Fields Too Large', 500 => 'Internal Server Error', 503 => 'Service Unavailable',
];

ini_set('display_errors', '0');
ini_set('log_errors', '1');
ini_set('error_log', '');
ini_set('html_errors', '0');

function maxBody(): int
{
    return (int) (getenv('MAX_BODY_BYTES') ?: 256 << 20);
}

/** A request that is answered with a status and a text. */
final class Refused extends \Exception
{
    public function __construct(public readonly int $status, string $text)
    {
        parent::__construct($text);
    }
}

/** The client is gone. */
final class Gone extends \Exception
{
}

/** A body, as PSR-7's streams are used. */
final class Body
{
    public function __construct(private string $text = '')
    {
    }

    public function write(string $text): int
    {
        $this->text .= $text;
        return strlen($text);
    }

    public function getContents(): string
    {
        return $this->text;
    }

    public function __toString(): string
    {
        return $this->text;
    }
}

final class Request
{
    public function __construct(
        public readonly string $method,
        public readonly string $target,
        public readonly array $headers,
        public readonly string $body,
    ) {
    }

    public function getMethod(): string
    {
        return $this->method;
    }

    public function getPath(): string
    {
        return explode('?', $this->target, 2)[0];
    }

    public function getQuery(): string
    {
        return explode('?', $this->target, 2)[1] ?? '';
    }

    public function getQueryParams(): array
    {
        parse_str($this->getQuery(), $parameters);
        return $parameters;
    }

    public function getHeaders(): array
    {
        return array_map(fn ($value) => [$value], $this->headers);
    }

    public function getHeaderLine(string $name): string
    {
        return $this->headers[strtolower($name)] ?? '';
    }

    public function getHeader(string $name): array
    {
        return $this->hasHeader($name) ? [$this->getHeaderLine($name)] : [];
    }

    public function hasHeader(string $name): bool
    {
        return isset($this->headers[strtolower($name)]);
    }

    public function getBody(): Body
    {
        return new Body($this->body);
    }

    public function getParsedBody(): mixed
    {
        if (str_contains($this->getHeaderLine('content-type'), 'json')) {
            return json_decode($this->body, true, flags: JSON_THROW_ON_ERROR);
        }
        parse_str($this->body, $fields);
        return $fields;
    }
}

final class Response
{
    private Body $body;

    public function __construct(private int $status = 200, private array $headers = [], string $body = '')
    {
        $this->body = new Body($body);
    }

    public function withStatus(int $status): static
    {
        $this->status = $status;
        return $this;
    }

    public function withHeader(string $name, string $value): static
    {
        $this->headers[$name] = $value;
        return $this;
    }

    public function getStatusCode(): int
    {
        return $this->status;
    }

    public function getHeaders(): array
    {
        return $this->headers;
    }

    public function getBody(): Body
    {
        return $this->body;
    }
}

final class Logger
{
    public function __call(string $level, array $words): void
    {
        fwrite(STDERR, "$level: " . ($words[0] ?? '') . (isset($words[1]) ? ' ' . json_encode($words[1]) : '') . "\n");
    }
}

/** The code, once it is there. */
final class UserFunction
{
    private ?string $handler = null;
    private ?string $script = null;

    public function isScript(): bool
    {
        return $this->script !== null;
    }

    public function load(string $path, string $name): void
    {
        $parts = explode('.', $name);
        $entry = array_pop($parts) ?: 'handler';
        $file = $path;
        if (is_dir($path)) {
            chdir($path);
            set_include_path($path . PATH_SEPARATOR . get_include_path());
            if (is_file("$path/vendor/autoload.php")) {
                require "$path/vendor/autoload.php";
            }
            $names = $parts ? [implode('.', $parts)] : ['handler', 'index', 'main'];
            $found = array_filter($names, fn ($it) => is_file("$path/$it.php"));
            if (!$found) {
                throw new \RuntimeException("$path has no " . implode('.php, ', $names) . '.php');
            }
            $file = "$path/" . reset($found) . '.php';
        }
        if (!is_file($file)) {
            throw new \RuntimeException("$file does not exist");
        }
        // Throws when it is no PHP.
        $tokens = token_get_all((string) file_get_contents($file), TOKEN_PARSE);
        foreach ($tokens as $at => $token) {
            if (is_array($token) && $token[0] === T_FUNCTION && ($tokens[$at + 2][1] ?? '') === $entry) {
                $this->handler = $entry;
                // What it writes while it loads answers nobody.
                ob_start();
                require $file;
                fwrite(STDERR, (string) ob_get_clean());
                if (!function_exists($entry)) {
                    throw new \RuntimeException("$file has no function $entry outside of classes and namespaces");
                }
                return;
            }
        }
        if ($name !== '' && $parts) {
            throw new \RuntimeException("$file has no function $entry");
        }
        $this->script = $file;
    }

    /** Status, headers and body, which is a string or gives pieces. */
    public function call(Request $request): array
    {
        ob_start();
        if ($this->script !== null) {
            return $this->run($request);
        }
        $response = new Response();
        $value = ($this->handler)(['request' => $request, 'response' => $response, 'logger' => new Logger()]);
        $written = (string) ob_get_clean();
        if ($value instanceof \Traversable) {
            return [200, TEXT, $value];
        }
        if (is_object($value) && method_exists($value, 'getStatusCode')) {
            $headers = array_map(fn ($it) => is_array($it) ? implode(', ', $it) : $it, $value->getHeaders());
            return [$value->getStatusCode(), $headers, (string) $value->getBody()];
        }
        if (is_array($value)) {
            return [200, ['Content-Type' => 'application/json'], json_encode($value, JSON_THROW_ON_ERROR)];
        }
        $headers = $response->getHeaders() + ['Content-Type' => 'text/html; charset=utf-8'];
        $text = is_bool($value) || $value === null ? '' : (string) $value;
        return [$response->getStatusCode(), $headers, $written . $response->getBody() . $text];
    }

    private function run(Request $request): array
    {
        $_GET = $request->getQueryParams();
        $_POST = str_contains($request->getHeaderLine('content-type'), 'urlencoded') ? $request->getParsedBody() : [];
        $_SERVER['REQUEST_METHOD'] = $request->method;
        $_SERVER['REQUEST_URI'] = $request->target;
        $_SERVER['PATH_INFO'] = rawurldecode($request->getPath());
        $_SERVER['QUERY_STRING'] = $request->getQuery();
        foreach ($request->headers as $name => $value) {
            $_SERVER['HTTP_' . strtoupper(strtr($name, '-', '_'))] = $value;
        }
        $GLOBALS['body'] = $request->body;
        (static function (string $file, array $context): void {
            require $file;
        })($this->script, ['request' => $request, 'logger' => new Logger()]);
        return self::written();
    }

    /** What a script has written so far, also when it called `exit`. */
    public static function written(): array
    {
        $text = '';
        while (ob_get_level() > 0) {
            $text = ob_get_clean() . $text;
        }
        return [http_response_code() ?: 200, ['Content-Type' => 'text/html; charset=utf-8'], $text];
    }
}

/** One client. */
final class Connection
{
    public string $buffer = '';
    public bool $begun = false;

    /** @param resource $stream */
    public function __construct(public readonly mixed $stream)
    {
        stream_set_blocking($stream, true);
        stream_set_read_buffer($stream, 0);
        stream_set_write_buffer($stream, 0);
    }

    /** False at the end. */
    public function more(): bool
    {
        $data = @fread($this->stream, 262144);
        if ($data === false || $data === '') {
            return !feof($this->stream);
        }
        $this->buffer .= $data;
        return true;
    }

    /** A request and whether the client goes on after it; nothing when the client has left. */
    public function request(): ?array
    {
        while (($end = strpos($this->buffer, "\r\n\r\n")) === false) {
            if (strlen($this->buffer) > MAX_HEAD) {
                throw new Refused(431, 'the head is too large');
            }
            if (!$this->wait() || !$this->more()) {
                return null;
            }
        }
        $lines = explode("\r\n", substr($this->buffer, 0, $end));
        $this->buffer = substr($this->buffer, $end + 4);
        if (!preg_match('{^(\S+) (\S+) (HTTP/1\.[01])$}', (string) array_shift($lines), $first)) {
            throw new Refused(400, 'not an HTTP request');
        }
        $headers = [];
        foreach ($lines as $line) {
            [$name, $value] = explode(':', $line, 2) + [1 => null];
            if ($value === null) {
                throw new Refused(400, 'a header without a colon');
            }
            $name = strtolower($name);
            $headers[$name] = (isset($headers[$name]) ? "$headers[$name], " : '') . trim($value);
        }
        if (strtolower($headers['expect'] ?? '') === '100-continue') {
            $this->write("HTTP/1.1 100 Continue\r\n\r\n");
        }
        $wish = strtolower($headers['connection'] ?? '');
        $keep = $first[3] === 'HTTP/1.1' ? $wish !== 'close' : $wish === 'keep-alive';
        return [new Request($first[1], $first[2], $headers, $this->body($headers)), $keep];
    }

    /** Waits for the first byte of a request; false when there shall be no further one. */
    private function wait(): bool
    {
        while ($this->buffer === '') {
            if (Server::$stopping) {
                return false;
            }
            $read = [$this->stream];
            $none = null;
            // A signal just before waiting would be seen late without a bound.
            if (@stream_select($read, $none, $none, 0, 500_000)) {
                return true;
            }
        }
        return true;
    }

    private function body(array $headers): string
    {
        if (str_contains(strtolower($headers['transfer-encoding'] ?? ''), 'chunked')) {
            return $this->chunks();
        }
        $length = $headers['content-length'] ?? '0';
        if (!ctype_digit($length)) {
            throw new Refused(400, 'content-length is no number');
        }
        return $this->exactly((int) $length);
    }

    private function exactly(int $length): string
    {
        if ($length > maxBody()) {
            throw new Refused(413, 'a body may have ' . maxBody() . ' bytes');
        }
        while (strlen($this->buffer) < $length) {
            if (!$this->more()) {
                throw new Gone();
            }
        }
        $data = substr($this->buffer, 0, $length);
        $this->buffer = substr($this->buffer, $length);
        return $data;
    }

    private function line(): string
    {
        while (($end = strpos($this->buffer, "\r\n")) === false) {
            if (!$this->more()) {
                throw new Gone();
            }
        }
        $line = substr($this->buffer, 0, $end);
        $this->buffer = substr($this->buffer, $end + 2);
        return $line;
    }

    private function chunks(): string
    {
        $whole = '';
        while (true) {
            if (!preg_match('/^[0-9a-fA-F]{1,8}/', $this->line(), $size)) {
                throw new Refused(400, 'a chunk without a size');
            }
            $size = (int) hexdec($size[0]);
            if ($size === 0) {
                while ($this->line() !== '') {
                }
                return $whole;
            }
            if (strlen($whole) + $size > maxBody()) {
                throw new Refused(413, 'a body may have ' . maxBody() . ' bytes');
            }
            $whole .= $this->exactly($size);
            $this->exactly(2);
        }
    }

    private function write(string $data): void
    {
        for ($at = 0; $at < strlen($data); $at += $count) {
            $count = @fwrite($this->stream, $at === 0 ? $data : substr($data, $at));
            if ($count === false || ($count === 0 && feof($this->stream))) {
                throw new Gone();
            }
        }
    }

    public function answer(int $status, array $headers, string|iterable $body, bool $keep, bool $headOnly = false): void
    {
        $head = "HTTP/1.1 $status " . (REASONS[$status] ?? '') . "\r\n";
        foreach ($headers as $name => $value) {
            if (preg_match('/[\r\n]/', "$name$value")) {
                throw new \RuntimeException('a header with a line break');
            }
            if (!in_array(strtolower($name), ['content-length', 'transfer-encoding', 'connection'], true)) {
                $head .= "$name: $value\r\n";
            }
        }
        $head .= $keep ? '' : "Connection: close\r\n";
        $this->begun = true;
        if (is_string($body)) {
            $bare = in_array($status, [204, 304], true);
            $head .= $bare ? '' : 'Content-Length: ' . strlen($body) . "\r\n";
            $this->write("$head\r\n" . ($bare || $headOnly ? '' : $body));
            return;
        }
        $this->write("{$head}Transfer-Encoding: chunked\r\n\r\n");
        if ($headOnly) {
            return;
        }
        foreach ($body as $piece) {
            $piece = (string) $piece;
            if ($piece !== '') {
                $this->write(dechex(strlen($piece)) . "\r\n$piece\r\n");
            }
        }
        $this->write("0\r\n\r\n");
    }
}

/** Listens, and sends each request where it belongs. */
final class Server
{
    public static bool $stopping = false;
    private bool $failed = false;
    private bool $loaded = false;
    private UserFunction $function;
    /** @var resource */
    private mixed $listener;
    private array $children = [];

    public function __construct()
    {
        $this->function = new UserFunction();
        $port = getenv('PORT') ?: '8888';
        $context = stream_context_create(['socket' => ['backlog' => 1024, 'tcp_nodelay' => true]]);
        $flags = STREAM_SERVER_BIND | STREAM_SERVER_LISTEN;
        $listener = stream_socket_server("tcp://0.0.0.0:$port", $number, $words, $flags, $context);
        if ($listener === false) {
            fwrite(STDERR, "listen on port $port: $words\n");
            exit(1);
        }
        $this->listener = $listener;
    }

    public function run(): never
    {
        pcntl_async_signals(true);
        foreach ([SIGTERM, SIGINT] as $signal) {
            pcntl_signal($signal, function (): void {
                self::$stopping = true;
            }, false);
        }
        pcntl_signal(SIGCHLD, fn () => null, false);
        while (!self::$stopping) {
            $this->reap(WNOHANG);
            $read = [$this->listener];
            $none = null;
            if (!@stream_select($read, $none, $none, 0, 500_000)) {
                continue;
            }
            $stream = @stream_socket_accept($this->listener, 0);
            if ($stream === false) {
                continue;
            }
            $connection = new Connection($stream);
            if ($this->loaded || $this->failed) {
                $this->fork($connection);
            } else {
                $this->generic($connection);
                fclose($connection->stream);
            }
        }
        fclose($this->listener);
        foreach (array_keys($this->children) as $child) {
            posix_kill($child, SIGTERM);
        }
        while ($this->children) {
            $this->reap(0);
        }
        exit(0);
    }

    private function reap(int $how): void
    {
        while ($this->children && ($child = pcntl_waitpid(-1, $status, $how)) > 0) {
            unset($this->children[$child]);
        }
    }

    /** Until code comes a connection is answered once. */
    private function generic(Connection $connection): void
    {
        // Who sends nothing must not keep the code from coming.
        stream_set_timeout($connection->stream, 5);
        try {
            $asked = $connection->request();
            if ($asked !== null) {
                $this->answerGeneric($connection, $asked[0]);
            }
        } catch (Refused $refused) {
            $this->tell($connection, $refused->status, $refused->getMessage());
        } catch (Gone) {
        }
    }

    private function answerGeneric(Connection $connection, Request $request): void
    {
        $path = $request->getPath();
        if ($path === '/healthz') {
            $this->tell($connection, 200, '');
            return;
        }
        if ($request->method !== 'POST' || !in_array($path, ['/specialize', '/v2/specialize'], true)) {
            throw new Refused(500, 'Generic container: no requests supported');
        }
        [$where, $name] = [(getenv('USERFUNC') ?: '/userfunc') . '/user', ''];
        if ($path === '/v2/specialize') {
            $told = json_decode($request->body, true);
            if (!is_array($told) || !is_string($told['filepath'] ?? null)) {
                throw new Refused(400, 'filepath and functionName are needed, as JSON');
            }
            [$where, $name] = [$told['filepath'], (string) ($told['functionName'] ?? '')];
        }
        // Code that ends the process answers too.
        register_shutdown_function(function () use ($connection): void {
            if (!$this->loaded && !$this->failed) {
                $this->tell($connection, 500, error_get_last()['message'] ?? 'the code of the function ended the process');
            }
        });
        try {
            $this->function->load($where, $name);
            $this->loaded = true;
            $this->tell($connection, 200, '');
        } catch (\Throwable $error) {
            $this->failed = true;
            fwrite(STDERR, "$error\n");
            $this->tell($connection, 500, "$error");
        }
    }

    private function tell(Connection $connection, int $status, string $text, bool $keep = false): void
    {
        try {
            $connection->answer($status, TEXT, $text, $keep);
        } catch (Gone) {
        }
    }

    private function fork(Connection $connection): void
    {
        $child = pcntl_fork();
        if ($child < 0) {
            $this->tell($connection, 503, 'no process for the call');
            fclose($connection->stream);
            return;
        }
        if ($child > 0) {
            $this->children[$child] = true;
            // As long as it is open here, the client does not see its end.
            fclose($connection->stream);
            return;
        }
        pcntl_signal(SIGCHLD, SIG_DFL);
        fclose($this->listener);
        mt_srand();
        try {
            $this->serve($connection);
        } catch (Gone) {
        } catch (Refused $refused) {
            $this->tell($connection, $refused->status, $refused->getMessage());
        }
        // Without what the parent has to do at its end.
        posix_kill(posix_getpid(), SIGKILL);
        exit;
    }

    private function serve(Connection $connection): void
    {
        $running = null;
        register_shutdown_function(function () use ($connection, &$running): void {
            if ($running === null || $connection->begun) {
                return;
            }
            $error = error_get_last();
            $fatal = $error !== null && ($error['type'] & (E_ERROR | E_CORE_ERROR | E_COMPILE_ERROR)) !== 0;
            [$status, $headers, $body] = $fatal ? [500, TEXT, $error['message']] : UserFunction::written();
            $connection->answer($status, $headers, $body, false, $running->method === 'HEAD');
        });
        while (($asked = $connection->request()) !== null) {
            [$request, $keep] = $asked;
            $keep = $keep && !self::$stopping && !$this->function->isScript();
            $connection->begun = false;
            $path = $request->getPath();
            if ($path === '/healthz') {
                $this->tell($connection, 200, '', $keep);
            } elseif ($request->method === 'POST' && in_array($path, ['/specialize', '/v2/specialize'], true)) {
                $this->tell($connection, 400, 'Not a generic container', $keep);
            } elseif ($this->failed) {
                $this->tell($connection, 500, 'the code of the function did not load', $keep);
            } else {
                $running = $request;
                $this->call($connection, $request, $keep);
                $running = null;
            }
            if (!$keep) {
                return;
            }
        }
    }

    private function call(Connection $connection, Request $request, bool $keep): void
    {
        try {
            [$status, $headers, $body] = $this->function->call($request);
            $connection->answer($status, $headers, $body, $keep, $request->method === 'HEAD');
        } catch (Gone $gone) {
            throw $gone;
        } catch (\Throwable $error) {
            while (ob_get_level() > 0) {
                ob_end_clean();
            }
            fwrite(STDERR, "$error\n");
            if ($connection->begun) {
                throw new Gone();
            }
            $this->tell($connection, 500, $error::class . ': ' . $error->getMessage(), $keep);
        }
    }
}

(new Server())->run();
