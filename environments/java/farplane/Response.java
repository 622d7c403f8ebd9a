package farplane;

import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;

/** An answer. A function may give a string or bytes instead. */
public final class Response {
    /** Writes a body as it comes. */
    public interface Writer {
        void write(java.io.OutputStream out) throws Exception;
    }

    final int status;
    final Map<String, String> headers = new LinkedHashMap<>();
    byte[] body = new byte[0];
    Writer writer;

    /** An empty answer. */
    public Response(int status) {
        this.status = status;
    }

    /** With a header. */
    public Response header(String name, String value) {
        headers.put(name, value);
        return this;
    }

    /** With these bytes. */
    public Response body(byte[] bytes) {
        body = bytes;
        return this;
    }

    /** With this text, as UTF-8. */
    public Response body(String text) {
        return body(text.getBytes(StandardCharsets.UTF_8));
    }

    /** With what is written later; what is flushed is sent. */
    public Response body(Writer later) {
        writer = later;
        return this;
    }
}
