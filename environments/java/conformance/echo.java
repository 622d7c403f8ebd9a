public class echo {
    public byte[] handle(byte[] body) {
        return body;
    }
}
