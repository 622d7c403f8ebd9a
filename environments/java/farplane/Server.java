package farplane;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Runs one function behind HTTP, by the contract of Fission's environments.
 *
 * States: generic (answers /healthz and waits for code) -> specialised (everything else goes to the
 * function). SIGTERM lets calls that run come to their end.
 */
public final class Server {
    private static final String USERFUNC = System.getenv().getOrDefault("USERFUNC", "/userfunc");
    private static final int PORT = Integer.parseInt(System.getenv().getOrDefault("PORT", "8888"));
    private static final Pattern ESCAPE = Pattern.compile("\\\\(?:u([0-9a-fA-F]{4})|(.))", Pattern.DOTALL);
    private static final Pattern TOKEN = Pattern.compile(
        "\"((?:[^\"\\\\]|\\\\.)*+)\"(\\s*:)?|[{}\\[\\]]|[^\\s,{}\\[\\]\"]+", Pattern.DOTALL);

    private final Object lock = new Object();
    private boolean taken;
    private volatile Function function;
    private volatile boolean stopping;
    private int calls;

    private Server() {}

    public static void main(String[] arguments) throws IOException {
        // Answers are written in two pieces: the second must not wait for the first to be seen.
        System.setProperty("sun.net.httpserver.nodelay", "true");
        System.setProperty("sun.net.httpserver.idleInterval", "300");
        System.setProperty("sun.net.httpserver.maxIdleConnections", "4096");
        Server self = new Server();
        HttpServer server = HttpServer.create(new InetSocketAddress(PORT), 1024);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", self::exchange);
        // What the first call would load otherwise.
        self.warm();
        Runtime.getRuntime().addShutdownHook(new Thread(self::drain));
        server.start();
    }

    private void warm() {
        send(new byte[0], null);
        text("{\"filepath\":\"\"}", "filepath");
        Loader.class.getDeclaredMethods();
        javax.tools.ToolProvider.getSystemJavaCompiler();
    }

    private void drain() {
        stopping = true;
        synchronized (lock) {
            while (calls > 0) {
                try {
                    lock.wait();
                } catch (InterruptedException e) {
                    break;
                }
            }
        }
        Runtime.getRuntime().halt(0);
    }

    private void exchange(HttpExchange exchange) throws IOException {
        synchronized (lock) {
            calls++;
        }
        try {
            answer(exchange);
        } finally {
            exchange.close();
            synchronized (lock) {
                calls--;
                lock.notifyAll();
            }
        }
    }

    private void answer(HttpExchange exchange) throws IOException {
        byte[] body = exchange.getRequestBody().readAllBytes();
        String path = exchange.getRequestURI().getRawPath();
        boolean post = exchange.getRequestMethod().equals("POST");
        if (stopping) {
            exchange.getResponseHeaders().set("Connection", "close");
        }
        Response response;
        if (path.equals("/healthz")) {
            response = new Response(200);
        } else if (post && (path.equals("/specialize") || path.equals("/v2/specialize"))) {
            response = specialise(path, new String(body, StandardCharsets.UTF_8));
        } else if (function == null) {
            response = plain(500, "Generic container: no requests supported");
        } else {
            response = call(exchange, path, body);
        }
        write(exchange, response);
    }

    private Response specialise(String path, String asked) {
        String where = USERFUNC + "/user";
        String name = "";
        if (path.equals("/v2/specialize")) {
            where = text(asked, "filepath");
            name = text(asked, "functionName");
        }
        synchronized (lock) {
            if (taken) {
                return plain(400, "Not a generic container");
            }
            if (where == null) {
                return plain(400, "filepath and functionName are needed, as JSON");
            }
            taken = true;
        }
        try {
            function = Loader.load(where, name == null ? "" : name);
            return new Response(200);
        } catch (Throwable error) {
            StringWriter text = new StringWriter();
            error.printStackTrace(new PrintWriter(text));
            System.err.println(text);
            return plain(500, text.toString());
        }
    }

    /** A string of a JSON document at its top, without a parser. */
    static String text(String json, String key) {
        Matcher token = TOKEN.matcher(json);
        int depth = 0;
        String name = null;
        while (token.find()) {
            String text = token.group(1);
            if (text == null) {
                char first = token.group().charAt(0);
                depth += first == '{' || first == '[' ? 1 : first == '}' || first == ']' ? -1 : 0;
                name = null;
            } else if (token.group(2) != null) {
                name = depth == 1 ? text : null;
            } else if (depth == 1 && key.equals(name)) {
                return unescape(text);
            } else {
                name = null;
            }
        }
        return null;
    }

    private static String unescape(String text) {
        return ESCAPE.matcher(text).replaceAll(it -> {
            if (it.group(1) != null) {
                return Matcher.quoteReplacement(String.valueOf((char) Integer.parseInt(it.group(1), 16)));
            }
            int at = "ntrbf".indexOf(it.group(2));
            return Matcher.quoteReplacement(at < 0 ? it.group(2) : String.valueOf("\n\t\r\b\f".charAt(at)));
        });
    }

    private Response call(HttpExchange exchange, String path, byte[] body) {
        Map<String, List<String>> headers = new HashMap<>();
        exchange.getRequestHeaders().forEach((name, values) -> headers.put(name.toLowerCase(), values));
        String query = exchange.getRequestURI().getRawQuery();
        Request request = new Request(exchange.getRequestMethod(), path, query == null ? "" : query, headers, body);
        try {
            return send(function.handle(request), null);
        } catch (Throwable error) {
            error.printStackTrace();
            return plain(500, error.toString());
        }
    }

    private Response send(Object value, String kind) {
        if (value == null) {
            return new Response(200);
        }
        if (value instanceof Response response) {
            return response;
        }
        if (value instanceof byte[] bytes) {
            return new Response(200).header("Content-Type", "application/octet-stream").body(bytes);
        }
        return plain(200, value.toString());
    }

    private static Response plain(int status, String text) {
        return new Response(status).header("Content-Type", "text/plain; charset=utf-8").body(text);
    }

    private void write(HttpExchange exchange, Response response) throws IOException {
        response.headers.forEach((name, value) -> exchange.getResponseHeaders().set(name, value));
        boolean head = exchange.getRequestMethod().equals("HEAD");
        if (response.writer != null && !head) {
            exchange.sendResponseHeaders(response.status, 0);
            try (OutputStream out = exchange.getResponseBody()) {
                response.writer.write(out);
            } catch (IOException error) {
                throw error;
            } catch (Exception error) {
                error.printStackTrace();
                // The answer must not look whole.
                throw new IOException(error);
            }
            return;
        }
        int length = response.body.length;
        exchange.sendResponseHeaders(response.status, length == 0 || head ? -1 : length);
        if (length > 0 && !head) {
            exchange.getResponseBody().write(response.body);
        }
    }
}
