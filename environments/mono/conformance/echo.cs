using Fission.DotNetCore.Api;

public class Echo
{
    public byte[] Execute(FissionContext context)
    {
        return context.Request.Bytes;
    }
}
