import farplane.Request;
import farplane.Response;

public class report {
    public static Response handle(Request request) {
        String told = String.format(
            "{\"method\":\"%s\",\"path\":\"%s\",\"a\":\"%s\",\"b\":\"%s\",\"question\":\"%s\"}",
            request.method(), request.path(), request.parameters().get("a"),
            request.parameters().get("b"), request.header("X-Question"));
        return new Response(200).header("Content-Type", "application/json").body(told);
    }
}
