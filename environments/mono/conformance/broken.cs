using System;

public class Broken
{
    public Broken()
    {
        throw new InvalidOperationException("no such thing");
    }

    public string Execute()
    {
        return "";
    }
}
