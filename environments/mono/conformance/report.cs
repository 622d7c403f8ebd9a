using Fission.DotNetCore.Api;
using System.Linq;

public class Report
{
    public string Execute(FissionContext context)
    {
        var request = context.Request;
        context.Response.Headers["Content-Type"] = "application/json";
        return "{\"method\":\"" + request.Method + "\",\"path\":\"" + request.Path
            + "\",\"a\":\"" + context.Arguments["a"] + "\",\"b\":\"" + context.Arguments["b"]
            + "\",\"question\":\"" + request.Headers["X-Question"].First() + "\"}";
    }
}
