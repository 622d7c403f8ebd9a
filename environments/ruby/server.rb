# frozen_string_literal: true

# Runs one Ruby function behind HTTP, by the contract of Fission's environments.
#
# States: generic (answers /healthz and waits for code) -> specialised (everything else goes to the
# function). The function is `def handler` or `def handler(context)`; the context has `request` and
# `logger`. It answers with a string, with [status, headers, body] as Rack applications do, or with
# a hash, which becomes JSON. A body of which `each` is not that of an array or string is sent as it
# comes.
#
# Promises: what functions need most is loaded before the code comes; a connection has a thread of
# its own; SIGTERM lets calls that run come to their end.

require 'socket'
require 'json'
# Not needed here: functions require them, and find them loaded.
require 'set'
require 'time'
require 'uri'
require 'net/http'
require 'securerandom'
require 'digest'
require 'logger'
require 'base64'

PORT = Integer(ENV.fetch('PORT', '8888'))
USERFUNC = ENV.fetch('USERFUNC', '/userfunc')
MAX_HEAD = 64 * 1024
MAX_BODY = Integer(ENV.fetch('MAX_BODY_BYTES', (256 << 20).to_s))
REASONS = {
  200 => 'OK', 201 => 'Created', 202 => 'Accepted', 204 => 'No Content', 302 => 'Found',
  304 => 'Not Modified', 400 => 'Bad Request', 401 => 'Unauthorized', 403 => 'Forbidden',
  404 => 'Not Found', 413 => 'Content Too Large', 431 => 'Request Header Fields Too Large',
  500 => 'Internal Server Error'
}.freeze
TEXT = { 'Content-Type' => 'text/plain; charset=utf-8' }.freeze

# A request that is answered with a status and a text.
class Refused < StandardError
  attr_reader :status

  def initialize(status, text)
    super(text)
    @status = status
  end
end

# A call, with the names that Rack's requests have.
class Request
  attr_reader :request_method, :path, :query_string, :headers, :raw_body

  def initialize(method, target, headers, body)
    @request_method = method
    @path, _, @query_string = target.partition('?')
    @headers = headers
    @raw_body = body
  end

  alias path_info path

  def params
    @params ||= URI.decode_www_form(query_string).to_h
  end
  alias query params

  def body
    @body ||= StringIO.new(raw_body)
  end

  def json
    JSON.parse(raw_body)
  end

  def header(name)
    headers[name.downcase]
  end
  alias get_header header
end

# What a function gets.
Context = Struct.new(:request, :logger)

# The code, once it is there.
class Function
  def initialize
    @lock = Mutex.new
    @taken = false
  end

  def ready?
    !@entry.nil?
  end

  # Loads the code. Only the first time can succeed.
  def specialise(path, name)
    @lock.synchronize do
      raise Refused.new(400, 'Not a generic container') if @taken

      @taken = true
    end
    @logger = Logger.new($stderr)
    load_code(path, name)
  rescue Refused
    raise
  rescue Exception => e # rubocop:disable Lint/RescueException -- syntax errors and exits are the function's
    text = e.full_message(highlight: false)
    warn text
    raise Refused.new(500, text)
  end

  def call(request)
    @wants_context ? @entry.call(Context.new(request, @logger)) : @entry.call
  end

  private

  def load_code(path, name)
    file, entry = locate(path, name)
    # Methods that a file defines at its top are private ones of every object.
    TOPLEVEL_BINDING.eval(File.read(file), file)
    raise NameError, "#{file} has no method #{entry}" unless TOPLEVEL_BINDING.receiver.respond_to?(entry, true)

    @wants_context = TOPLEVEL_BINDING.receiver.method(entry).arity != 0
    @entry = TOPLEVEL_BINDING.receiver.method(entry)
  end

  def locate(path, name)
    first, _, last = name.rpartition('.')
    entry = last.empty? ? 'handler' : last
    return [path, entry] unless File.directory?(path)

    $LOAD_PATH.unshift(path)
    Dir.chdir(path)
    bundled = File.join(path, 'vendor/bundle')
    Gem.paths = { 'GEM_PATH' => [bundled, *Gem.path].join(':') } if Dir.exist?(bundled)
    names = first.empty? ? %w[handler main function] : [first]
    file = names.map { |it| File.join(path, "#{it}.rb") }.find { |it| File.file?(it) }
    raise LoadError, "#{path} has no #{names.join('.rb, ')}.rb" unless file

    [file, entry]
  end
end

# One client, served by one thread.
class Connection
  def initialize(server, socket)
    @server = server
    @socket = socket
    @buffer = String.new(encoding: Encoding::BINARY)
  end

  def serve
    @socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1)
    nil while one
  rescue SystemCallError, IOError
    nil # the client is gone
  ensure
    @socket.close
  end

  private

  # Answers one request; false when it was the last.
  def one
    head = read_head or return false
    @server.calling do
      request, keep = read_request(head)
      keep &&= !@server.stopping
      status, headers, body = @server.answer(request)
      send_answer(status, headers, body, keep, request.request_method == 'HEAD')
      keep
    rescue Refused => e
      keep &&= request
      send_answer(e.status, TEXT, e.message, keep, false)
      keep
    end
  end

  def more
    @buffer << @socket.readpartial(65_536)
    true
  rescue EOFError
    false
  end

  def read_head
    from = 0
    until (at = @buffer.index("\r\n\r\n", from))
      if @buffer.bytesize > MAX_HEAD
        send_answer(431, TEXT, '', false, false)
        return nil
      end
      from = [@buffer.bytesize - 3, 0].max
      return nil unless more
    end
    head = @buffer.slice!(0, at + 4)
    head[0, at]
  end

  def read_request(head)
    first, *lines = head.split("\r\n")
    method, target, version = first.to_s.match(%r{\A(\S+) (\S+) (HTTP/1\.[01])\z})&.captures
    raise Refused.new(400, 'not an HTTP request') unless method

    headers = {}
    lines.each do |line|
      name, colon, value = line.partition(':')
      raise Refused.new(400, 'a header without a colon') if colon.empty?

      name = name.downcase
      value = value.strip.force_encoding(Encoding::UTF_8)
      headers[name] = headers.key?(name) ? "#{headers[name]}, #{value}" : value
    end
    @socket.write("HTTP/1.1 100 Continue\r\n\r\n") if headers['expect'].to_s.downcase == '100-continue'
    wish = headers['connection'].to_s.downcase
    keep = version == 'HTTP/1.1' ? wish != 'close' : wish == 'keep-alive'
    [Request.new(method, target, headers, read_body(headers)), keep]
  end

  def read_body(headers)
    return read_chunks if headers['transfer-encoding'].to_s.downcase.include?('chunked')

    length = headers.fetch('content-length', '0')
    raise Refused.new(400, 'content-length is no number') unless length.match?(/\A\d+\z/)

    read_exactly(length.to_i)
  end

  def read_exactly(length)
    raise Refused.new(413, "a body may have #{MAX_BODY} bytes") if length > MAX_BODY
    return @buffer.slice!(0, length) if @buffer.bytesize >= length

    whole = @buffer
    @buffer = String.new(encoding: Encoding::BINARY)
    rest = @socket.read(length - whole.bytesize)
    raise EOFError if rest.nil? || whole.bytesize + rest.bytesize < length

    whole << rest
  end

  def read_line
    until (at = @buffer.index("\r\n"))
      raise EOFError unless more
    end
    @buffer.slice!(0, at + 2)[0, at]
  end

  def read_chunks
    whole = String.new(encoding: Encoding::BINARY)
    loop do
      size = read_line[/\A\h+/]&.hex or raise Refused.new(400, 'a chunk without a size')
      raise Refused.new(413, "a body may have #{MAX_BODY} bytes") if whole.bytesize + size > MAX_BODY

      if size.zero?
        nil until read_line.empty?
        return whole
      end
      whole << read_exactly(size)
      read_exactly(2)
    end
  end

  def send_answer(status, headers, body, keep, head_only)
    head = +"HTTP/1.1 #{status} #{REASONS[status]}\r\n"
    headers.each do |name, value|
      raise IOError, 'a header with a line break' if "#{name}#{value}".match?(/[\r\n]/)
      next if %w[content-length transfer-encoding connection].include?(name.to_s.downcase)

      head << "#{name}: #{value}\r\n"
    end
    head << "Connection: close\r\n" unless keep
    return send_pieces(head, body, head_only) unless body.is_a?(String)

    bare = [204, 304].include?(status)
    head << "Content-Length: #{body.bytesize}\r\n" unless bare
    head << "\r\n"
    head.force_encoding(Encoding::BINARY)
    head << body.b unless bare || head_only
    @socket.write(head)
  end

  def send_pieces(head, body, head_only)
    @socket.write("#{head}Transfer-Encoding: chunked\r\n\r\n")
    return if head_only

    body.each do |piece|
      piece = piece.to_s.b
      @socket.write("#{piece.bytesize.to_s(16)}\r\n".b << piece << "\r\n") unless piece.empty?
    end
    @socket.write("0\r\n\r\n")
  end
end

# Listens, and sends each request where it belongs.
class Server
  attr_reader :stopping

  def initialize
    @function = Function.new
    @stopping = false
    @calls = 0
    @lock = Mutex.new
    @idle = ConditionVariable.new
    @listener = TCPServer.new('0.0.0.0', PORT)
    @listener.listen(1024)
  end

  def calling
    @lock.synchronize { @calls += 1 }
    yield
  ensure
    @lock.synchronize do
      @calls -= 1
      @idle.signal
    end
  end

  def answer(request)
    case [request.request_method, request.path]
    in [_, '/healthz'] then [200, {}, '']
    in ['POST', '/specialize'] then specialise(File.join(USERFUNC, 'user'), '')
    in ['POST', '/v2/specialize'] then specialise(*asked(request))
    else
      raise Refused.new(500, 'Generic container: no requests supported') unless @function.ready?

      call(request)
    end
  end

  def run
    wake, told = IO.pipe
    %w[TERM INT].each { |signal| trap(signal) { told.write('.') } }
    Thread.new { accept }
    wake.read(1)
    @stopping = true
    @listener.close
    @lock.synchronize { @idle.wait(@lock) until @calls.zero? }
    $stdout.flush
    exit!(0)
  end

  private

  def asked(request)
    asked = JSON.parse(request.raw_body)
    [asked.fetch('filepath'), asked['functionName'].to_s]
  rescue JSON::ParserError, KeyError, NoMethodError
    # A second request is refused as such, whatever it says.
    raise Refused.new(400, 'Not a generic container') if @function.ready?

    raise Refused.new(400, 'filepath and functionName are needed, as JSON')
  end

  def specialise(path, name)
    @function.specialise(path, name)
    [200, {}, '']
  end

  def call(request)
    plain(@function.call(request))
  rescue Exception => e # rubocop:disable Lint/RescueException -- one call must not end the others
    warn e.full_message(highlight: false)
    [500, TEXT, "#{e.class}: #{e.message}"]
  end

  def plain(value)
    case value
    when Array
      status, headers, body = value
      body = body.join if body.is_a?(Array)
      [status.to_i, headers || {}, body.respond_to?(:each) ? body : body.to_s]
    when Hash then [200, { 'Content-Type' => 'application/json' }, JSON.generate(value)]
    when String, nil, Symbol, Numeric then [200, { 'Content-Type' => 'text/html; charset=utf-8' }, value.to_s]
    else
      return plain(value.finish) if value.respond_to?(:finish) # Rack::Response
      return [200, TEXT, value] if value.respond_to?(:each)

      raise TypeError, "a function cannot answer with #{value.class}"
    end
  end

  def accept
    loop do
      socket = @listener.accept
      Thread.new { Connection.new(self, socket).serve }
    rescue IOError, SystemCallError
      return if @stopping
    end
  end
end

$stdout.sync = true
Server.new.run
