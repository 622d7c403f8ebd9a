public class fail {
    public String handle() {
        throw new IllegalStateException("this call fails");
    }
}
