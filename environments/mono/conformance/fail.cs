using System;

public class Fail
{
    public string Execute()
    {
        throw new InvalidOperationException("this call fails");
    }
}
