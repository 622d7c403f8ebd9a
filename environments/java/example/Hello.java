import farplane.Function;
import farplane.Request;

public class Hello implements Function {
    @Override
    public String handle(Request request) {
        return "Hello, world!\n";
    }
}
