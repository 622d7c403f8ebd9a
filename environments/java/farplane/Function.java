package farplane;

/** A function. Classes without this interface may have a method `handle` of the same form. */
public interface Function {
    /** Answers a call. What it throws answers with 500. */
    Object handle(Request request) throws Exception;
}
