using Fission.DotNetCore.Api;

public class Hello
{
    public string Execute(FissionContext context)
    {
        return "Hello, world!\n";
    }
}
