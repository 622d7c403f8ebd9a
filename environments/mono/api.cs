// What functions see. The names are those of Fission's .NET environment, so that its functions
// work as they are.
using System;
using System.Collections.Generic;
using System.IO;
using System.Text;

namespace Fission.DotNetCore.Api
{
    /// <summary>A call, and what belongs to it.</summary>
    public class FissionContext
    {
        /// <summary>Parameters of the query.</summary>
        public Dictionary<string, object> Arguments { get; } = new Dictionary<string, object>();
        /// <summary>The request.</summary>
        public FissionRequest Request { get; set; }
        /// <summary>The answer, for functions that set its status or headers.</summary>
        public FissionResponse Response { get; } = new FissionResponse();
        /// <summary>Writes to the function's log.</summary>
        public Logger Logger { get; } = new Logger();
    }

    /// <summary>A request.</summary>
    public class FissionRequest
    {
        /// <summary>The body.</summary>
        public Stream Body { get { return new MemoryStream(Bytes, false); } }
        /// <summary>The body.</summary>
        public byte[] Bytes { get; set; }
        /// <summary>Headers, found in any case.</summary>
        public Dictionary<string, IEnumerable<string>> Headers { get; } =
            new Dictionary<string, IEnumerable<string>>(StringComparer.OrdinalIgnoreCase);
        /// <summary>Path and query.</summary>
        public string Url { get; set; }
        /// <summary>Path.</summary>
        public string Path { get { return Url.Split('?')[0]; } }
        /// <summary>Method.</summary>
        public string Method { get; set; }

        /// <summary>The body as UTF-8.</summary>
        public string BodyAsString()
        {
            return Encoding.UTF8.GetString(Bytes);
        }
    }

    /// <summary>An answer.</summary>
    public class FissionResponse
    {
        /// <summary>Status.</summary>
        public int StatusCode { get; set; } = 200;
        /// <summary>Headers.</summary>
        public Dictionary<string, string> Headers { get; } = new Dictionary<string, string>();
    }

    /// <summary>The function's log.</summary>
    public class Logger
    {
        /// <summary>Writes a line.</summary>
        public void Write(string severity, string format, params object[] values)
        {
            Console.Error.WriteLine(severity + ": " + (values.Length == 0 ? format : string.Format(format, values)));
        }
        /// <summary>Writes a line.</summary>
        public void WriteInfo(string format, params object[] values) { Write("info", format, values); }
        /// <summary>Writes a line.</summary>
        public void WriteWarning(string format, params object[] values) { Write("warning", format, values); }
        /// <summary>Writes a line.</summary>
        public void WriteError(string format, params object[] values) { Write("error", format, values); }
        /// <summary>Writes a line.</summary>
        public void WriteCritical(string format, params object[] values) { Write("critical", format, values); }
    }
}
