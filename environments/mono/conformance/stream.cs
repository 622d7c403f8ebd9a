using System.Collections.Generic;
using System.Threading;

public class Numbers
{
    public IEnumerable<string> Execute()
    {
        for (var number = 0; number < 5; number++)
        {
            if (number > 0) Thread.Sleep(200);
            yield return number + "\n";
        }
    }
}
