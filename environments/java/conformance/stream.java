import farplane.Response;

public class stream {
    public Response handle() {
        return new Response(200).body(out -> {
            for (int number = 0; number < 5; number++) {
                if (number > 0) {
                    Thread.sleep(200);
                }
                out.write((number + "\n").getBytes());
                out.flush();
            }
        });
    }
}
