// Runs one .NET function behind HTTP, by the contract of Fission's environments.
//
// States: generic (answers /healthz and waits for code) -> specialised (everything else goes to the
// function). The function is a public class with `Execute(FissionContext)`, `Execute()` or the same
// named `Handle`; it answers with a string, bytes, or lines that are sent as they come.
//
// Promises: a connection has a thread of its own; SIGTERM lets calls that run come to their end.
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Net;
using System.Net.Sockets;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;
using System.Threading;
using Fission.DotNetCore.Api;

namespace Farplane
{
    class Refused : Exception
    {
        public readonly int Status;
        public Refused(int status, string text) : base(text) { Status = status; }
    }

    /// <summary>The client is gone.</summary>
    class Gone : Exception { }

    class Answer
    {
        public int Status = 200;
        public Dictionary<string, string> Headers = new Dictionary<string, string>();
        public byte[] Body = new byte[0];
        public IEnumerable<string> Pieces;

        public static Answer Text(int status, string text)
        {
            var answer = new Answer { Status = status, Body = Encoding.UTF8.GetBytes(text) };
            answer.Headers["Content-Type"] = "text/plain; charset=utf-8";
            return answer;
        }
    }

    /// <summary>The code, once it is there.</summary>
    class Function
    {
        readonly object gate = new object();
        volatile Func<FissionContext, object> call;
        public bool Taken { get; private set; }
        public bool Ready { get { return call != null; } }

        public void Specialise(string where, string name)
        {
            lock (gate)
            {
                if (Taken) throw new Refused(400, "Not a generic container");
                Taken = true;
            }
            try
            {
                call = Load(where, name);
            }
            catch (Exception error)
            {
                var cause = error is TargetInvocationException && error.InnerException != null ? error.InnerException : error;
                Console.Error.WriteLine(cause);
                throw new Refused(500, cause.ToString());
            }
        }

        public object Call(FissionContext context)
        {
            return call(context);
        }

        static Func<FissionContext, object> Load(string where, string name)
        {
            var files = new List<string> { where };
            if (Directory.Exists(where))
            {
                Directory.SetCurrentDirectory(where);
                files = Directory.GetFiles(where, "*.dll").Concat(Directory.GetFiles(where, "*.exe")).ToList();
                AppDomain.CurrentDomain.AssemblyResolve += (_, asked) =>
                {
                    var file = Path.Combine(where, new AssemblyName(asked.Name).Name + ".dll");
                    return File.Exists(file) ? Assembly.LoadFrom(file) : null;
                };
                if (files.Count == 0) files.Add(Compile(Directory.GetFiles(where, "*.cs", SearchOption.AllDirectories)));
            }
            else if (!IsAssembly(where))
            {
                files[0] = Compile(new[] { where });
            }
            var methods = new List<MethodInfo>();
            foreach (var file in files)
            {
                var types = Assembly.Load(File.ReadAllBytes(file)).GetExportedTypes();
                methods.AddRange(types.Where(type => name == "" || type.FullName == name || type.Name == name)
                    .Select(Entry).Where(method => method != null));
            }
            if (methods.Count != 1)
            {
                var found = methods.Count == 0 ? "no public class" : "more than one class";
                throw new ArgumentException(where + " has " + found + (name == "" ? "" : " named " + name) + " with a method Execute");
            }
            return Bind(methods[0]);
        }

        static bool IsAssembly(string file)
        {
            using (var stream = File.OpenRead(file)) return stream.ReadByte() == 'M' && stream.ReadByte() == 'Z';
        }

        static string Compile(string[] sources)
        {
            if (sources.Length == 0) throw new ArgumentException("there is neither a dll nor source");
            var output = Path.Combine(Path.GetTempPath(), "function-" + Process.GetCurrentProcess().Id + ".dll");
            var own = Assembly.GetExecutingAssembly().Location;
            var start = new ProcessStartInfo("mcs", "-target:library -nologo -r:" + own + " -out:" + output + " " + string.Join(" ", sources))
            {
                UseShellExecute = false, RedirectStandardError = true, RedirectStandardOutput = true
            };
            using (var compiler = Process.Start(start))
            {
                var said = compiler.StandardOutput.ReadToEndAsync();
                var errors = compiler.StandardError.ReadToEnd();
                compiler.WaitForExit();
                if (compiler.ExitCode != 0) throw new ArgumentException("the code does not compile:\n" + errors + said.Result);
            }
            return output;
        }

        static MethodInfo Entry(Type type)
        {
            foreach (var name in new[] { "Execute", "Handle" })
            {
                foreach (var parameters in new[] { new[] { typeof(FissionContext) }, new Type[0] })
                {
                    var method = type.GetMethod(name, parameters);
                    if (method != null && !method.IsAbstract) return method;
                }
            }
            return null;
        }

        static Func<FissionContext, object> Bind(MethodInfo method)
        {
            var self = method.IsStatic ? null : Activator.CreateInstance(method.DeclaringType);
            var takes = method.GetParameters().Length == 1;
            return context =>
            {
                try
                {
                    return method.Invoke(self, takes ? new object[] { context } : new object[0]);
                }
                catch (TargetInvocationException error)
                {
                    throw new CallFailed(error.InnerException ?? error);
                }
            };
        }
    }

    class CallFailed : Exception
    {
        public CallFailed(Exception cause) : base(cause.GetType().Name + ": " + cause.Message, cause) { }
    }

    /// <summary>One client, served by one thread.</summary>
    class Connection
    {
        const int MaxHead = 64 * 1024;
        const int MaxBody = 256 << 20;
        static readonly Dictionary<int, string> Reasons = new Dictionary<int, string>
        {
            { 200, "OK" }, { 201, "Created" }, { 204, "No Content" }, { 302, "Found" }, { 304, "Not Modified" },
            { 400, "Bad Request" }, { 403, "Forbidden" }, { 404, "Not Found" }, { 413, "Content Too Large" },
            { 431, "Request Header Fields Too Large" }, { 500, "Internal Server Error" }
        };
        readonly Server server;
        readonly Socket socket;
        readonly byte[] buffer = new byte[65536];
        int start, end;

        public Connection(Server server, Socket socket)
        {
            this.server = server;
            this.socket = socket;
        }

        public void Serve()
        {
            try
            {
                socket.NoDelay = true;
                while (One()) { }
            }
            catch (Gone) { }
            catch (SocketException) { }
            catch (ObjectDisposedException) { }
            finally { socket.Close(); }
        }

        bool One()
        {
            if (start == end && !Fill()) return false;
            server.Begin();
            try
            {
                FissionRequest request;
                bool keep;
                try
                {
                    request = Read(out keep);
                }
                catch (Refused refused)
                {
                    Send(Answer.Text(refused.Status, refused.Message), false, false);
                    return false;
                }
                keep = keep && !server.Stopping;
                Send(server.Answer(request), keep, request.Method == "HEAD");
                return keep;
            }
            finally { server.End(); }
        }

        bool Fill()
        {
            if (start == end) start = end = 0;
            end = socket.Receive(buffer, 0, buffer.Length, SocketFlags.None);
            start = 0;
            return end > 0;
        }

        string Line(ref int left)
        {
            var line = new List<byte>(128);
            while (true)
            {
                if (start == end && !Fill()) throw new Gone();
                var at = Array.IndexOf(buffer, (byte)'\n', start, end - start);
                var until = at < 0 ? end : at;
                line.AddRange(new ArraySegment<byte>(buffer, start, until - start));
                left -= until - start;
                if (left < 0) throw new Refused(431, "the head is too large");
                start = at < 0 ? end : at + 1;
                if (at >= 0)
                {
                    if (line.Count > 0 && line[line.Count - 1] == '\r') line.RemoveAt(line.Count - 1);
                    return Encoding.UTF8.GetString(line.ToArray());
                }
            }
        }

        FissionRequest Read(out bool keep)
        {
            var left = MaxHead;
            var first = Regex.Match(Line(ref left), @"^(\S+) (\S+) (HTTP/1\.[01])$");
            if (!first.Success) throw new Refused(400, "not an HTTP request");
            var request = new FissionRequest { Method = first.Groups[1].Value, Url = first.Groups[2].Value };
            for (string line; (line = Line(ref left)) != "";)
            {
                var colon = line.IndexOf(':');
                if (colon <= 0) throw new Refused(400, "a header without a colon");
                var name = line.Substring(0, colon);
                IEnumerable<string> before;
                request.Headers.TryGetValue(name, out before);
                request.Headers[name] = (before ?? new string[0]).Concat(new[] { line.Substring(colon + 1).Trim() }).ToArray();
            }
            if (Header(request, "expect").ToLowerInvariant() == "100-continue") Write(Encoding.ASCII.GetBytes("HTTP/1.1 100 Continue\r\n\r\n"));
            var wish = Header(request, "connection").ToLowerInvariant();
            keep = first.Groups[3].Value == "HTTP/1.1" ? wish != "close" : wish == "keep-alive";
            if (Header(request, "transfer-encoding").ToLowerInvariant().Contains("chunked")) request.Bytes = Chunks();
            else
            {
                int length;
                var text = Header(request, "content-length");
                if (!int.TryParse(text == "" ? "0" : text, out length) || length < 0) throw new Refused(400, "content-length is no number");
                request.Bytes = Exactly(length, 0);
            }
            return request;
        }

        static string Header(FissionRequest request, string name)
        {
            IEnumerable<string> values;
            return request.Headers.TryGetValue(name, out values) ? string.Join(", ", values) : "";
        }

        byte[] Exactly(int length, long before)
        {
            if (length + before > MaxBody) throw new Refused(413, "a body may have " + MaxBody + " bytes");
            var body = new byte[length];
            var at = Math.Min(length, end - start);
            Buffer.BlockCopy(buffer, start, body, 0, at);
            start += at;
            while (at < length)
            {
                var count = socket.Receive(body, at, length - at, SocketFlags.None);
                if (count == 0) throw new Gone();
                at += count;
            }
            return body;
        }

        byte[] Chunks()
        {
            var body = new MemoryStream();
            while (true)
            {
                var left = MaxHead;
                var digits = Regex.Match(Line(ref left), "^[0-9a-fA-F]{1,7}");
                if (!digits.Success) throw new Refused(400, "a chunk without a size");
                var size = Convert.ToInt32(digits.Value, 16);
                if (size == 0)
                {
                    while (Line(ref left) != "") { }
                    return body.ToArray();
                }
                body.Write(Exactly(size, body.Length), 0, size);
                Line(ref left);
            }
        }

        void Write(byte[] data)
        {
            for (var at = 0; at < data.Length;)
            {
                at += socket.Send(data, at, data.Length - at, SocketFlags.None);
            }
        }

        void Send(Answer answer, bool keep, bool headOnly)
        {
            string reason;
            Reasons.TryGetValue(answer.Status, out reason);
            var head = new StringBuilder("HTTP/1.1 " + answer.Status + " " + reason + "\r\n");
            foreach (var header in answer.Headers)
            {
                if ((header.Key + header.Value).IndexOfAny(new[] { '\r', '\n' }) >= 0) throw new Gone();
                head.Append(header.Key + ": " + header.Value + "\r\n");
            }
            if (!keep) head.Append("Connection: close\r\n");
            var bare = answer.Status == 204 || answer.Status == 304;
            if (answer.Pieces == null)
            {
                if (!bare) head.Append("Content-Length: " + answer.Body.Length + "\r\n");
                var bytes = Encoding.UTF8.GetBytes(head.Append("\r\n").ToString());
                Write(bare || headOnly ? bytes : bytes.Concat(answer.Body).ToArray());
                return;
            }
            Write(Encoding.UTF8.GetBytes(head.Append("Transfer-Encoding: chunked\r\n\r\n").ToString()));
            if (headOnly) return;
            try
            {
                foreach (var piece in answer.Pieces)
                {
                    var bytes = Encoding.UTF8.GetBytes(piece ?? "");
                    if (bytes.Length == 0) continue;
                    Write(Encoding.ASCII.GetBytes(bytes.Length.ToString("x") + "\r\n").Concat(bytes).Concat(new byte[] { 13, 10 }).ToArray());
                }
            }
            catch (Exception error) when (!(error is SocketException))
            {
                // The answer must not look whole.
                Console.Error.WriteLine(error);
                throw new Gone();
            }
            Write(Encoding.ASCII.GetBytes("0\r\n\r\n"));
        }
    }

    /// <summary>Listens, and sends each request where it belongs.</summary>
    class Server
    {
        readonly Function function = new Function();
        readonly object gate = new object();
        int calls;
        public volatile bool Stopping;

        [DllImport("libc")]
        static extern int sigemptyset(byte[] set);
        [DllImport("libc")]
        static extern int sigaddset(byte[] set, int number);
        [DllImport("libc")]
        static extern int pthread_sigmask(int how, byte[] set, IntPtr old);
        [DllImport("libc")]
        static extern int sigwait(byte[] set, out int number);

        public static void Main()
        {
            new Server().Run();
        }

        void Run()
        {
            // Blocked before there is another thread, so that only the one that waits gets them.
            var set = new byte[128];
            sigemptyset(set);
            sigaddset(set, 15);
            sigaddset(set, 2);
            pthread_sigmask(0, set, IntPtr.Zero);
            var port = int.Parse(Environment.GetEnvironmentVariable("PORT") ?? "8888");
            var listener = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            listener.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.ReuseAddress, true);
            listener.Bind(new IPEndPoint(IPAddress.Any, port));
            Warm();
            listener.Listen(1024);
            new Thread(() => Accept(listener)) { IsBackground = true }.Start();
            int number;
            while (sigwait(set, out number) != 0) { }
            Stopping = true;
            listener.Close();
            lock (gate)
            {
                while (calls > 0) Monitor.Wait(gate);
            }
            Environment.Exit(0);
        }

        /// <summary>Has compiled what the first call would have to.</summary>
        void Warm()
        {
            Asked("{\"filepath\":\"\",\"functionName\":\"\"}", "functionName");
            Plain(new FissionContext { Request = new FissionRequest { Url = "/", Method = "GET", Bytes = new byte[0] } }, "");
        }

        void Accept(Socket listener)
        {
            while (!Stopping)
            {
                try
                {
                    var connection = new Connection(this, listener.Accept());
                    new Thread(connection.Serve) { IsBackground = true }.Start();
                }
                catch (SocketException) { }
                catch (ObjectDisposedException) { return; }
            }
        }

        public void Begin()
        {
            lock (gate) calls++;
        }

        public void End()
        {
            lock (gate)
            {
                calls--;
                Monitor.PulseAll(gate);
            }
        }

        public Answer Answer(FissionRequest request)
        {
            try
            {
                if (request.Path == "/healthz") return new Answer();
                if (request.Method == "POST" && (request.Path == "/specialize" || request.Path == "/v2/specialize"))
                {
                    if (function.Taken) throw new Refused(400, "Not a generic container");
                    Specialise(request);
                    return new Answer();
                }
                if (!function.Ready) throw new Refused(500, "Generic container: no requests supported");
                var context = new FissionContext { Request = request };
                foreach (var pair in (request.Url + "?").Split('?')[1].Split('&').Where(it => it != ""))
                {
                    var parts = pair.Split(new[] { '=' }, 2);
                    context.Arguments[Decode(parts[0])] = parts.Length == 2 ? Decode(parts[1]) : "";
                }
                return Plain(context, function.Call(context));
            }
            catch (Refused refused)
            {
                return Farplane.Answer.Text(refused.Status, refused.Message);
            }
            catch (Exception error)
            {
                Console.Error.WriteLine(error);
                return Farplane.Answer.Text(500, error.Message);
            }
        }

        static string Decode(string text)
        {
            return Uri.UnescapeDataString(text.Replace('+', ' '));
        }

        void Specialise(FissionRequest request)
        {
            var where = Path.Combine(Environment.GetEnvironmentVariable("USERFUNC") ?? "/userfunc", "user");
            var name = "";
            if (request.Path == "/v2/specialize")
            {
                where = Asked(request.BodyAsString(), "filepath");
                name = Asked(request.BodyAsString(), "functionName") ?? "";
                if (where == null) throw new Refused(400, "filepath and functionName are needed, as JSON");
            }
            function.Specialise(where, name);
        }

        /// <summary>A string of a JSON document at its top, without a parser.</summary>
        static string Asked(string json, string key)
        {
            var depth = 0;
            string name = null;
            foreach (Match token in Regex.Matches(json, @"""((?:[^""\\]|\\.)*)""(\s*:)?|[{}\[\]]|[^\s,{}\[\]""]+", RegexOptions.Singleline))
            {
                if (!token.Groups[1].Success)
                {
                    var first = token.Value[0];
                    depth += first == '{' || first == '[' ? 1 : first == '}' || first == ']' ? -1 : 0;
                    name = null;
                }
                else if (token.Groups[2].Success) name = depth == 1 ? token.Groups[1].Value : null;
                else if (depth == 1 && name == key) return Regex.Unescape(token.Groups[1].Value.Replace("\\/", "/"));
                else name = null;
            }
            return null;
        }

        static Answer Plain(FissionContext context, object value)
        {
            var answer = new Answer { Status = context.Response.StatusCode, Headers = new Dictionary<string, string>(context.Response.Headers) };
            var kind = "text/plain; charset=utf-8";
            if (value is byte[])
            {
                answer.Body = (byte[])value;
                kind = "application/octet-stream";
            }
            else if (value is IEnumerable<string>) answer.Pieces = (IEnumerable<string>)value;
            else answer.Body = Encoding.UTF8.GetBytes(Convert.ToString(value));
            if (!answer.Headers.ContainsKey("Content-Type")) answer.Headers["Content-Type"] = kind;
            return answer;
        }
    }
}
