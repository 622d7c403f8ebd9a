public class broken {
    public broken() {
        throw new IllegalStateException("no such thing");
    }

    public String handle() {
        return "";
    }
}
